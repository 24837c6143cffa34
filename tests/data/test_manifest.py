"""Tables of paths and labels, as people write and export them."""

import gin
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from pyarrow import parquet

from framework.data.images import decode
from framework.data.manifest import Manifest
from framework.errors import UserError
from framework.registry import SOURCES, TASKS

PIXELS = tf.io.encode_png(np.zeros([2, 3, 3], np.uint8)).numpy()


def write(root, text, name="photos.csv", images=("a.png", "b.png")):
    """A table, and the images that it may list."""
    root.mkdir(exist_ok=True)
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        (root / image).write_bytes(PIXELS)
    path = root / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_every_row_is_an_example(tmp_path):
    text = "path,label\nsub/b.png,dog\na.png,cat\nc.png,dog\n"
    images = ("a.png", "sub/b.png", "c.png")
    source = Manifest(write(tmp_path, text, images=images))
    assert source.name == "photos.csv (manifest)"
    assert source.class_names == ("cat", "dog")
    assert source.notes == ()
    assert list(source.splits) == ["train"]
    train = source.splits["train"]
    assert list(train.ids) == ["sub/b.png", "a.png", "c.png"]
    np.testing.assert_array_equal(train.labels, [1, 0, 1])
    assert train.groups is None
    assert train.path(train.rows[0]) == str(tmp_path / "sub/b.png")
    dataset = tf.data.Dataset.from_tensor_slices(train.rows).map(train.read)
    assert all(decode(image).shape == (2, 3, 3) for image in dataset)


def test_splits_and_groups(tmp_path):
    text = (
        "group,split,label,path,other\n"
        "anna,Train,x,a.png,1\n"
        ",TRAINING,y,b.png,2\n"
        "bert, val ,x,c.png,3\n"
        "bert,test,y,d.png,4\n"
    )
    source = Manifest(write(tmp_path, text))
    assert list(source.splits) == ["train", "validation", "test"]
    assert list(source.splits["train"].groups) == ["anna", ""]
    assert list(source.splits["validation"].ids) == ["c.png"]
    assert source.notes[:2] == (
        "Classes that the test split lacks: 1 (x).",
        "Classes that the validation split lacks: 1 (y).",
    )


def test_quotes_commas_lines_and_a_byte_order_mark(tmp_path):
    text = (
        '\ufeffpath,label\r\n"a,1.png","big, red"\r\n'
        '"say ""b"".png",small\r\n\r\n"c\nd.png",small\r\n'
    )
    images = ("a,1.png", 'say "b".png', "c\nd.png")
    source = Manifest(write(tmp_path, text, images=images))
    assert source.class_names == ("big, red", "small")
    assert tuple(source.splits["train"].ids) == images
    assert source.notes == ()


def test_tabs(tmp_path):
    path = write(tmp_path, "path\tlabel\na.png\tx\nb.png\ty, z\n", "t.TSV")
    assert Manifest(path).class_names == ("x", "y, z")


def test_labels_stay_as_they_are_written(tmp_path):
    for labels, names in (
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["01", "2", "1"], ("01", "1", "2")),
        (["NA", "null", "true"], ("NA", "null", "true")),
        ([" cat", "cat ", "dog"], ("cat", "dog")),
    ):
        rows = "".join(f"{i}.png,{name}\n" for i, name in enumerate(labels))
        path = write(tmp_path, f"path,label\n{rows}", images=["0.png"])
        source = Manifest(path)
        assert source.class_names == names
        indices = source.splits["train"].labels
        assert [names[i] for i in indices] == [n.strip() for n in labels]


def test_parquet(tmp_path):
    (tmp_path / "ü.png").write_bytes(PIXELS)
    path = str(tmp_path / "m.parquet")
    for labels, names in (
        (pa.array([10, 9, 9], pa.uint8()), ("9", "10")),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ("a", "b")),
        (pa.array([True, False, True]), ("false", "true")),
    ):
        columns = {
            "file": ["a.png", "b.png", "ü.png"],
            "label": labels,
            "patient": pa.array([7, None, 7]),
        }
        parquet.write_table(pa.table(columns), path)
        source = Manifest(path, image_column="file", group_column="patient")
        assert source.class_names == names
        train = source.splits["train"]
        assert list(train.ids) == ["a.png", "b.png", "ü.png"]
        assert list(train.groups) == ["7", "", "7"]
        assert train.read(tf.constant(2, tf.int64)).numpy() == PIXELS


def test_the_user_orders_and_chooses_classes(tmp_path):
    text = "path,label\na.png,x\nb.png,y\nc.png,z\nd.png,y\n"
    path = write(tmp_path, text)
    source = Manifest(path, class_names=("z", "x"))
    assert source.class_names == ("z", "x")
    np.testing.assert_array_equal(source.splits["train"].labels, [1, 0])
    assert "classes not asked for: 2 rows (y)" in source.notes[0]
    with pytest.raises(UserError, match=r"'zz'.*Did you mean 'z'"):
        Manifest(path, class_names=("x", "zz"))
    with pytest.raises(UserError, match="each class once"):
        Manifest(path, class_names=("x", "x"))


def test_images_may_lie_elsewhere(tmp_path, monkeypatch):
    far = tmp_path / "far"
    write(far, "", images=("a.png", "b.png"))
    here = tmp_path / "here"
    text = f"path,label\n../far/a.png,x\n{far}/b.png,y\n"
    train = Manifest(write(here, text, images=())).splits["train"]
    for row, name in enumerate(("a.png", "b.png")):
        assert train.read(tf.constant(row, tf.int64)).numpy() == PIXELS
        assert train.path(row).endswith(name)
    path = write(here, "path,label\na.png,x\nb.png,y\n", images=())
    assert len(Manifest(path, root=str(far)).splits["train"]) == 2
    monkeypatch.chdir(far)
    text = "path,label\na.png,x\nb.png,y\n"
    write(far, text, "m.csv", images=())
    train = Manifest("m.csv").splits["train"]
    assert train.read(tf.constant(0, tf.int64)).numpy() == PIXELS


def test_other_file_systems_are_read_through_tensorflow():
    tf.io.gfile.makedirs("ram://listed/sub")
    for name, content in (
        ("m.csv", b"path,label\na.png,x\nsub/b.png,y\nram://listed/c.png,y\n"),
        ("a.png", b"of a"),
        ("sub/b.png", b"of b"),
        ("c.png", b"of c"),
    ):
        with tf.io.gfile.GFile(f"ram://listed/{name}", "wb") as file:
            file.write(content)
    train = Manifest("ram://listed/m.csv").splits["train"]
    read = [train.read(tf.constant(i, tf.int64)).numpy() for i in range(3)]
    assert read == [b"of a", b"of b", b"of c"]
    assert train.path is None


def test_a_row_that_is_repeated_counts_once(tmp_path):
    text = "path,label,split\na.png,x,train\nb.png,y,val\na.png,x,training\n"
    text += "c.png,y,train\n"
    source = Manifest(write(tmp_path, text))
    assert list(source.splits["train"].ids) == ["a.png", "c.png"]
    assert "repeat another one: 1 (4 ('a.png'))" in source.notes[0]


def test_what_some_images_lack_is_noted(tmp_path):
    text = "path,label\na.png,x\nb.png,y\nc.png,y\n"
    source = Manifest(write(tmp_path, text))
    assert source.notes == (
        "Of 3 images that were looked for, 1 are not there: c.png.",
    )


# By the table and the options: what is said.
MISTAKES = [
    ("", {}, "can't be parsed: Empty CSV"),
    ("path,label\n", {}, "has no rows"),
    ("path,class\na.png,x\n", {}, r"'label' not at all: 'path', 'class'"),
    (
        "paths,label\na.png,x\n",
        {},
        "'path' not at all.*Did you mean 'paths'",
    ),
    ("path;label\na.png;x\n", {}, "something else than commas"),
    ("path,label,label\na.png,x,y\n", {}, "'label' twice"),
    (
        "path,label\na.png,x\n",
        {"split_column": "fold"},
        "'fold' not at all",
    ),
    (
        "path,label\na.png,x\n",
        {"group_column": "who"},
        "'who' not at all",
    ),
    (
        "path,label\na.png,x\nb.png,\nc.png, \n",
        {},
        r"'label' of 2 of its 3 rows: 3 \('b.png'\), 4 \('c.png'\)",
    ),
    ("path,label\na.png,x\n,y\n", {}, r"'path' of 1 .* 3 \('y'\)"),
    (
        "path,label,split\na.png,x,train\nb.png,y,dev\nc.png,y,\n",
        {},
        r"2 rows: 3 \('dev'\), 4 \(''\); expected one of train, training",
    ),
    (
        "path,label\na.png,x\nb.png,y\na.png,y\n",
        {},
        "contradict.*'a.png' in 2 and 4",
    ),
    (
        "path,label,split\na.png,x,train\nb.png,y,train\na.png,x,val\n",
        {},
        "contradict.*'a.png' in 2 and 4",
    ),
    (
        "path,label,split\na.png,x,train\nb.png,y,train\nc.png,z,val\n",
        {},
        r"no image: 'z', in the rows 4 \('c.png'\)",
    ),
    (
        "path,label,split\na.png,x,val\nb.png,y,test\n",
        {},
        "the splits test, validation; expected one called train",
    ),
    ("path,label\na.png,x\nb.png\n", {}, "Expected 2 columns, got 1"),
    ('path,label\na.png,"x\nb.png,y\n', {}, "quotation mark"),
    (b"path,label\na.png,caf\xe9\nb.png,x\n", {}, "UTF8.*UTF-8"),
    (b"p\xe4th,label\na.png,x\n", {}, "can't be parsed"),
    ("path,label\na.png,x\n".encode("utf-16"), {}, "can't be parsed"),
    (
        "path,label\nno.png,x\nnone.png,y\n",
        {},
        "2 were looked for and none was found.*no.png",
    ),
    ("path,label\na.png,x\n", {}, "1 classes"),
    ("path,label\na.png,x\n", {"root": "nowhere"}, "no directory"),
]


def test_mistakes_are_user_errors(tmp_path):
    for text, options, message in MISTAKES:
        with pytest.raises(UserError, match=message):
            Manifest(write(tmp_path, text), **options)


def test_the_file_must_be_a_table(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Manifest(str(tmp_path / "none.csv"))
    with pytest.raises(UserError, match=r"ends in \.csv, \.tsv, \.parquet"):
        Manifest(write(tmp_path, "path,label\n", "m.xlsx"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="class folders"):
        Manifest(str(tmp_path / "folder.csv"))
    with pytest.raises(UserError, match="Expected a Parquet file"):
        Manifest(write(tmp_path, "path,label\n", "m.parquet"))
    table = pa.table({"path": ["a", "b"], "label": [[1], [2]]})
    parquet.write_table(table, tmp_path / "lists.parquet")
    with pytest.raises(UserError, match="is of the type list"):
        Manifest(str(tmp_path / "lists.parquet"))


def test_it_is_a_registered_source_and_task(tmp_path):
    import tasks.manifest  # noqa: F401

    rows = "".join(f"{i}.png,{'xy'[i % 2]}\n" for i in range(20))
    path = write(tmp_path, f"path,label\n{rows}", images=["0.png"])
    gin.bind_parameter("Manifest.path", path)
    assert SOURCES["Manifest"]().class_names == ("x", "y")
    data = TASKS["manifest"](validation=0.2, test=0.1).load()
    assert {k: len(v) for k, v in data.splits.items()} == {
        "train": 14,
        "validation": 4,
        "test": 2,
    }
