"""Directories of class folders, as people have them."""

import os

import gin
import numpy as np
import pytest
import tensorflow as tf

from framework.data.folder import ImageFolder
from framework.data.images import decode
from framework.data.limits import MAX_BYTES
from framework.errors import UserError
from framework.registry import SOURCES

PIXELS = tf.io.encode_png(np.zeros([2, 3, 3], np.uint8)).numpy()


def fill(root, *paths, content=PIXELS):
    for path in paths:
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return str(root)


def test_every_class_folder_is_a_label(tmp_path):
    root = fill(tmp_path, "dog/2.png", "cat/b/3.JPG", "cat/1.jpeg", "dog/1.bmp")
    source = ImageFolder(root)
    assert source.class_names == ("cat", "dog")
    assert list(source.splits) == ["train"]
    train = source.splits["train"]
    assert list(train.ids) == [
        "cat/1.jpeg",
        "cat/b/3.JPG",
        "dog/1.bmp",
        "dog/2.png",
    ]
    np.testing.assert_array_equal(train.labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(train.rows, range(4))
    assert source.notes == ()
    assert tmp_path.name in source.name


def test_images_are_read_inside_a_pipeline(tmp_path):
    fill(tmp_path, "a/1.png")
    root = fill(tmp_path, "b/1.png", content=b"of b")
    train = ImageFolder(root).splits["train"]
    dataset = tf.data.Dataset.from_tensor_slices(train.rows).map(train.read)
    first, second = dataset.as_numpy_iterator()
    assert decode(first).shape == (2, 3, 3)
    assert second == b"of b"
    _, part = train.select(np.array([1, 0])).cut(0.5, seed=0)
    assert len(part) == 0  # One example a class stays where it is.


def test_strays_are_noted_and_left_out(tmp_path):
    root = fill(
        tmp_path,
        "a/1.png",
        "b/1.png",
        "a/Thumbs.db",
        "a/.hidden.png",
        "b/.git/2.png",
        "beside.jpg",
        "README.md",
        *(f"b/{i}.txt" for i in range(5)),
    )
    (tmp_path / "empty").mkdir()
    source = ImageFolder(root)
    assert source.class_names == ("a", "b")
    assert len(source.splits["train"]) == 2
    notes = "\n".join(source.notes)
    assert "no images: 7 (" in notes and ", ...)" in notes
    assert "hidden: 2 (a/.hidden.png, b/.git)" in notes
    assert "images beside the class folders: 1 (beside.jpg)" in notes
    assert "class folders without images: 1 (empty)" in notes


def test_all_that_is_left_out_is_listed_and_why(tmp_path):
    texts = [f"train/a/{i}.txt" for i in range(5)]
    root = fill(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png")
    fill(tmp_path, "train/b/.2.png", "train/c/x", "test/beside.png", *texts)
    os.mkfifo(tmp_path / "train/b/pipe.jpg")
    (tmp_path / "train/a/lost.jpg").symlink_to("nowhere")
    (tmp_path / "train/a/far").symlink_to(tmp_path)
    source = ImageFolder(root, class_names=["a", "b"])
    lost = "links that can't be read (No such file or directory)"
    assert dict(source.left_out) == {
        **{f"{root}/{text}": "no images" for text in texts},
        f"{root}/train/b/.2.png": "hidden",
        f"{root}/train/c": "classes not asked for",
        f"{root}/train/b/pipe.jpg": "pipes, sockets or devices",
        f"{root}/train/a/lost.jpg": lost,
        f"{root}/train/a/far": "links to folders",
        f"{root}/test/beside.png": "images beside the class folders",
    }
    assert len(source.left_out) == 11
    note = "Left out, no images: 5 (train/a/0.txt, train/a/1.txt, train/a/2.txt"
    assert f"{note}, ...)." in source.notes
    assert len(source.notes) == 7 + 1


def test_rows_are_found_as_files(tmp_path):
    root = fill(tmp_path, "a/1.png", "b/x/2.png", "b/\udcff.png", "b/\n.png")
    train = ImageFolder(root).splits["train"]
    part = train.select(np.array([3, 1]))
    for examples in (train, part):
        for row in examples.rows:
            with open(examples.path(row), "rb") as file:
                assert file.read() == examples.read(tf.constant(row)).numpy()
    assert train.path(0) == f"{root}/a/1.png"


def test_the_user_orders_and_chooses_classes(tmp_path):
    root = fill(tmp_path, "a/1.png", "b/1.png", "c/1.png")
    source = ImageFolder(root, class_names=("c", "a"))
    assert source.class_names == ("c", "a")
    assert list(source.splits["train"].ids) == ["c/1.png", "a/1.png"]
    assert "classes not asked for: 1 (b)" in source.notes[0]


@pytest.mark.parametrize("validation", ["validation", "val", "Valid"])
def test_folders_of_splits_are_the_splits(tmp_path, validation):
    places = [
        f"{split}/{name}/1.png"
        for split in ("Train", validation, "TEST")
        for name in ("cat", "dog")
    ]
    source = ImageFolder(fill(tmp_path, *places, "extra/1.png"))
    assert list(source.splits) == ["train", "validation", "test"]
    assert source.splits["validation"].ids[1] == f"{validation}/dog/1.png"
    assert "folders beside the splits: 1 (extra)" in source.notes[0]


def test_train_may_be_a_class_beside_bus(tmp_path):
    source = ImageFolder(fill(tmp_path, "train/1.png", "bus/1.png"))
    assert source.class_names == ("bus", "train")


def test_splits_must_agree_on_the_classes(tmp_path):
    train = ["train/a/1.png", "train/b/1.png"]
    root = fill(tmp_path / "1", *train, "val/a/1.png")
    with pytest.raises(UserError, match=r"validation split without.*'b'"):
        ImageFolder(root)
    root = fill(tmp_path / "2", *train, "test/c/1.png", "test/a/1.png")
    with pytest.raises(UserError, match="test split with images of 'c'"):
        ImageFolder(root)
    root = fill(tmp_path / "3", *train, "test/a/1.png")
    source = ImageFolder(root)
    assert len(source.splits["test"]) == 1
    assert source.notes == ("The test split has no images of 'b'.",)
    assert source.left_out == ()
    root = fill(tmp_path / "4", *train, "test/note.txt")
    with pytest.raises(UserError, match=r"test split without.*'a', 'b'"):
        ImageFolder(root)
    root = fill(tmp_path / "5", *train, "val/a/1.png", "valid/a/1.png")
    with pytest.raises(UserError, match="two folders for the validation"):
        ImageFolder(root)


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        ([], {}, "0 folders"),
        (["1.png", "2.png"], {}, "2 images beside"),
        (["a/1.png"], {}, "1 folders.*'a'.*at least 2"),
        (["a/1.txt", "b/1.txt"], {}, "2 folders, of which 0 hold images"),
        (["train/1.png", "test/1.png"], {}, "folders of classes in these"),
        (
            ["cat/1.png", "dog/1.png"],
            {"class_names": ["cats", "dog"]},
            "'cats', which is no folder.*Did you mean 'cat'",
        ),
        (
            ["cat/1.png", "dog/1.txt"],
            {"class_names": ["cat", "dog"]},
            "'dog', whose folder holds no images",
        ),
        (
            ["cat/1.png", "dog/1.png"],
            {"class_names": ["cat", "cat"]},
            "'cat' twice",
        ),
    ],
)
def test_mistakes_are_user_errors(tmp_path, paths, options, message):
    with pytest.raises(UserError, match=message):
        ImageFolder(fill(tmp_path, *paths), **options)


def test_a_root_must_be_a_directory(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        ImageFolder(str(tmp_path / "none"))
    (tmp_path / "file.zip").write_bytes(b"")
    with pytest.raises(UserError, match="is a file"):
        ImageFolder(str(tmp_path / "file.zip"))


def test_links_are_followed_when_asked_and_never_in_circles(tmp_path):
    root = fill(tmp_path / "root", "a/1.png", "b/1.png")
    fill(tmp_path / "far", "2.png")
    (tmp_path / "root/a/far").symlink_to(tmp_path / "far")
    (tmp_path / "root/a/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/b/round").symlink_to(tmp_path / "root/b")
    assert len(ImageFolder(root).splits["train"]) == 2
    source = ImageFolder(root, follow_links=True)
    assert list(source.splits["train"].ids) == [
        "a/1.png",
        "a/far/2.png",
        "b/1.png",
    ]
    assert "links to folders seen before: 2 (a/up, b/round)" in source.notes[0]


def test_folders_that_link_to_each_other_are_entered_once(tmp_path):
    # 12 of them have more than 12! paths.
    names = [f"{i:02d}" for i in range(12)]
    root = fill(tmp_path, *(f"a/{name}/1.png" for name in names), "b/1.png")
    for name in names:
        for other in names:
            (tmp_path / "a" / name / f"to{other}").symlink_to(f"../{other}")
    source = ImageFolder(root, follow_links=True)
    # By their own names, not by that of the first link.
    wanted = [f"a/{name}/1.png" for name in names] + ["b/1.png"]
    assert list(source.splits["train"].ids) == wanted
    assert len(source.left_out) == 12 * 12


def test_folders_may_be_nested_deeper_than_calls(tmp_path):
    root = fill(tmp_path, "a/1.png", "b/1.png")
    place = f"{root}/a"
    for _ in range(1000):
        place += "/d"
        os.mkdir(place)
    with open(f"{place}/1.png", "wb") as file:
        file.write(PIXELS)
    deep = "a/" + "d/" * 1000 + "1.png"
    try:
        ids = ImageFolder(root).splits["train"].ids
        assert list(ids) == ["a/1.png", deep, "b/1.png"]
    finally:  # What pytest cleans up with could not.
        os.unlink(f"{place}/1.png")
        os.removedirs(place)


def test_files_that_memory_could_not_hold_are_left_out(tmp_path):
    root = fill(tmp_path, "a/1.png", "b/1.png", "b/big.png", "b/fits.png")
    os.truncate(tmp_path / "b/big.png", 10**12)
    os.truncate(tmp_path / "b/fits.png", MAX_BYTES)
    source = ImageFolder(root)
    assert list(source.splits["train"].ids)[1:] == ["b/1.png", "b/fits.png"]
    assert source.left_out == (
        (f"{root}/b/big.png", "files of more than 512 MiB"),
    )


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (FileNotFoundError(2, "No such file"), "No such file"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (PermissionError(13, "Permission denied"), None),
    ],
)
def test_folders_that_fail_while_they_are_read(
    tmp_path, monkeypatch, error, why
):
    root = fill(tmp_path, "a/1.png", "a/sub/2.png", "b/1.png")
    scandir = os.scandir

    def fails_below(path):
        if path.endswith("sub"):
            raise error
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fails_below)
    if why is None:
        with pytest.raises(UserError, match=r"a/sub', which may not be read"):
            ImageFolder(root)
        return
    source = ImageFolder(root)
    assert list(source.splits["train"].ids) == ["a/1.png", "b/1.png"]
    assert source.left_out == (
        (f"{root}/a/sub/", f"folders that can't be read ({why})"),
    )


def test_names_in_any_encoding_are_read(tmp_path):
    root = fill(tmp_path, "a/1.png", "b/1.png", "b/ünï 中.png")
    odd = os.fsencode(tmp_path / "a") + b"/caf\xe9.png"
    with open(odd, "wb") as file:
        file.write(b"odd")
    train = ImageFolder(root).splits["train"]
    assert list(train.ids[1:]) == ["a/caf\\xe9.png", "b/1.png", "b/ünï 中.png"]
    assert train.read(tf.constant(1, tf.int64)).numpy() == b"odd"
    tf.constant(list(train.ids))  # Ids are valid strings wherever they go.
    fill(tmp_path, "a/line\nend\x1b[2J\u202e.png")
    shown = ImageFolder(root).splits["train"].ids[2]
    assert shown == "a/line\\nend\\x1b[2J\\u202e.png"
    train.cut(0.5, seed=0)


def test_other_file_systems_are_read_through_tensorflow():
    for path in ("cat/1.png", "cat/more/2.png", "dog/1.png", "dog/x.txt"):
        place = f"ram://pets/{path}"
        tf.io.gfile.makedirs(place.rpartition("/")[0])
        with tf.io.gfile.GFile(place, "wb") as file:
            file.write(path.encode())
    train = ImageFolder("ram://pets").splits["train"]
    assert list(train.ids) == ["cat/1.png", "cat/more/2.png", "dog/1.png"]
    assert train.read(tf.constant(1, tf.int64)).numpy() == b"cat/more/2.png"
    with pytest.raises(UserError, match="does not exist"):
        ImageFolder("ram://nothing")


def test_it_is_a_registered_source(tmp_path):
    root = fill(tmp_path, "a/1.png", "b/1.png")
    gin.clear_config()
    try:
        gin.bind_parameter("ImageFolder.root", root)
        assert SOURCES["ImageFolder"]().class_names == ("a", "b")
    finally:
        gin.clear_config()
