"""Pictures for tests, drawn and encoded in memory."""

import io

import numpy as np
from PIL import Image


def photo(width=90, height=60, seed=0) -> Image.Image:
    """Smooth colours, as photographs have them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
