"""Turns what files may promise and hold into bounds that all readers share."""

# No image of more pixels is decoded. A telephone's 108 megapixels (12,000 x
# 9,000) are; and beside the file, decoding takes 1.6 GB at most in each thread:
# 12 bytes a pixel of an animated WebP, 11 of a progressive JPEG in CMYK, 8 of a
# BMP with a palette, 5 of a GIF, 3 of a PNG or a JPEG, 6 if that is turned.
MAX_PIXELS = 1 << 27

# Files are read as a whole: one of a terabyte, which is quickly made, would end
# the process. No image that is decoded has to have more bytes.
MAX_BYTES = 4 * MAX_PIXELS
