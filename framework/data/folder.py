"""Turns a directory with one folder per class into a source."""

import os
import stat
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from framework.data.limits import MAX_BYTES
from framework.data.source import IndexedExamples, Source
from framework.errors import UserError
from framework.registry import SOURCES, nearest

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")

# What folders directly below the root make them splits, not classes.
SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
_NAMES_IN_NOTES = 3

# What the entries of a folder are; others have a reason why they are neither.
_FILE, _FOLDER = "file", "folder"

# What a terminal or a table would take for more than a name: controls, ends of
# lines and what turns the direction of reading.
_CONTROLS = {
    c: chr(c).encode("unicode_escape").decode()
    for c in (
        *range(32),
        *range(127, 160),
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
    )
}


@SOURCES.register()
def ImageFolder(
    root: str,
    class_names: Sequence[str] | None = None,
    extensions: Sequence[str] = EXTENSIONS,
    follow_links: bool = False,
) -> Source:
    """Images in one folder per class, at any depth below it.

        root/cat/1.jpg                root/train/cat/1.jpg
        root/cat/summer/2.jpg   or    root/train/dog/2.png
        root/dog/3.png                root/test/cat/3.jpg ...

    Where `root` holds a folder "train" with class folders in it, this is the
    training split, and "validation" (or "valid", "val") and "test" beside it
    are the others, in letters of either case; otherwise everything is
    "train". An example's id is its path below `root`.

    Files with other extensions, hidden files and folders, images that lie
    beside the class folders and class folders without images are left out; so
    is whatever can't be read as a file: links that lead nowhere, pipes and
    devices, files of more than 512 MiB. The source's `left_out` lists them all
    and its notes count them. What a file holds is not looked at.

    Args:
        root: the directory; `~` is expanded; "gs://..." is read through
            TensorFlow's file system.
        class_names: which folders to take, in the order of the labels; by
            default all that hold images, sorted.
        extensions: of the files that are images, in letters of either case.
        follow_links: also enter folders that are symbolic links, each folder
            once a class. Links to files are followed anyway.

    Raises:
        UserError: there is no such directory; fewer than two of its folders
            hold images; a class asked for is not there; a split has a class
            that training has not, or lacks one (only "test" may).
    """
    root = os.fspath(root)
    remote = "://" in root
    root = root if remote else os.path.expanduser(root)
    _check_root(root, remote)
    walk = _Walk(root, extensions, follow_links, remote)
    places = _split_places(walk)
    # The files of each class of each split: paths below the root.
    found = {
        split: _find(walk, place, class_names)
        for split, place in places.items()
    }
    names = _class_names(walk, found["train"], class_names, places["train"])
    _check_splits(walk, found, names)
    title = os.path.basename(root.rstrip("/\\")) or root
    return Source(
        name=f"{printable(title)} (folder)",
        class_names=tuple(map(printable, names)),
        splits={
            split: _examples(root, files, names, remote)
            for split, files in found.items()
        },
        notes=walk.notes(),
        left_out=() if remote else walk.left_out(),
    )


def images_below(
    folder: str, extensions: Sequence[str] = EXTENSIONS
) -> list[str]:
    """Paths of the images in a folder, at any depth, as classes have theirs.

    What is hidden, links to folders, and whatever is no file, are left out.

    Raises:
        UserError: a folder may not be read.
    """
    walk = _Walk(folder, extensions, False, "://" in folder)
    return [_join(folder, path) for path in walk.class_images("", "")]


Files = dict[str, list[str]]


class _Walk:
    """Goes through folders in a fixed order; notes what it leaves out."""

    def __init__(
        self,
        root: str,
        extensions: Sequence[str],
        follow_links: bool,
        remote: bool,
    ):
        self.root = root
        self.extensions = tuple(e.lower() for e in extensions)
        self._follow_links = follow_links
        self._remote = remote
        # (path below the root, why).
        self._left_out: list[tuple[str, str]] = []
        self._remarks: list[str] = []

    def look(
        self, place: str
    ) -> tuple[list[str], list[str], list[tuple[str, str]]]:
        """(folders, images, other things and why) in `place`, by name, sorted.

        Notes nothing, so that one can look twice.
        """
        scan = _scan_remote if self._remote else _scan_local
        folders, images, others = [], [], []
        try:
            listing = sorted(scan(_join(self.root, place), self.extensions))
        except PermissionError as error:
            raise UserError(
                f"Received the folder {printable(_join(self.root, place))!r},"
                " which may not be read; expected read permission. Grant it "
                "(chmod -R u+rX) or take the folder away."
            ) from error
        except OSError as error:
            # It has gone since, for one.
            return [], [], [("", _failed("folders", error))]
        for name, kind, is_link in listing:
            if name.startswith("."):
                others.append((name, "hidden"))
            elif kind == _FOLDER and is_link and not self._follow_links:
                others.append((name, "links to folders"))
            elif kind == _FOLDER:
                folders.append(name)
            elif kind != _FILE:
                others.append((name, kind))
            elif name.lower().endswith(self.extensions):
                images.append(name)
            else:
                others.append((name, "no images"))
        return folders, images, others

    def class_folders(self, place: str) -> list[str]:
        folders, images, others = self.look(place)
        for name, why in others:
            self.leave_out(why, _join(place, name))
        for name in images:
            self.leave_out(
                "images beside the class folders", _join(place, name)
            )
        return folders

    def class_images(self, place: str, name: str) -> list[str]:
        """The images of class `name`, at any depth, as paths below the root.

        Args:
            place: where the class folder lies, a path below the root.
            name: of the class folder.
        """
        linked = self._follow_links and not self._remote
        # A link may lead to a folder that it lies in, and a few folders that
        # link to each other make millions of paths: each is entered once.
        entered = set(map(self._identity, ("", place))) if linked else set()
        found = []
        # No recursion: folders may be nested deeper than Python's calls.
        pending = [_join(place, name)]
        while pending:
            folder = pending.pop()
            if linked:
                identity = self._identity(folder)
                if identity is not None and identity in entered:
                    self.leave_out("links to folders seen before", folder)
                    continue
                entered.add(identity)
            folders, images, others = self.look(folder)
            for other, why in others:
                self.leave_out(why, _join(folder, other))
            found += [_join(folder, image) for image in images]
            for path in reversed([_join(folder, below) for below in folders]):
                # Links wait, so that a folder goes by its own name.
                waits = linked and os.path.islink(_join(self.root, path))
                pending.insert(0 if waits else len(pending), path)
        return found

    def _identity(self, place: str) -> tuple[int, int] | None:
        """What tells folders apart; None where there is none any more."""
        try:
            status = os.stat(_join(self.root, place))
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def leave_out(self, why: str, path: str) -> None:
        self._left_out.append((path, why))

    def remark(self, text: str) -> None:
        self._remarks.append(text)

    def left_out(self) -> tuple[tuple[str, str], ...]:
        """(path, why) of all that was left out."""
        return tuple(
            (_join(self.root, path), why) for path, why in self._left_out
        )

    def notes(self) -> tuple[str, ...]:
        """What was left out: a line for each reason, with a few names."""
        paths: dict[str, list[str]] = {}
        for path, why in self._left_out:
            paths.setdefault(why, []).append(path)
        notes = []
        for why, those in sorted(paths.items()):
            some = [*map(printable, those[:_NAMES_IN_NOTES])]
            some += ["..."] * (len(those) > len(some))
            notes.append(f"Left out, {why}: {len(those)} ({', '.join(some)}).")
        return (*notes, *self._remarks)


Entry = tuple[str, str, bool]


def _scan_local(path: str, extensions: tuple[str, ...]) -> Iterator[Entry]:
    """(name, what it is or why it is nothing, is a link) of all in `path`."""
    del extensions
    with os.scandir(path) as entries:
        for entry in entries:
            is_link = entry.is_symlink()
            try:
                status = entry.stat()
            except OSError as error:
                if isinstance(error, PermissionError) and not is_link:
                    raise  # It is the folder's.
                kind = _failed("links" if is_link else "files", error)
            else:
                kind = _kind(status)
            yield entry.name, kind, is_link


def _failed(what: str, error: OSError) -> str:
    return f"{what} that can't be read ({error.strerror})"


def _kind(status: os.stat_result) -> str:
    if stat.S_ISDIR(status.st_mode):
        return _FOLDER
    # Opened for reading, a pipe without a writer blocks for ever.
    if not stat.S_ISREG(status.st_mode):
        return "pipes, sockets or devices"
    if status.st_size > MAX_BYTES:
        return f"files of more than {MAX_BYTES >> 20} MiB"
    return _FILE


def _scan_remote(path: str, extensions: tuple[str, ...]) -> Iterator[Entry]:
    for name in tf.io.gfile.listdir(path):
        bare = name.rstrip("/")
        if not bare:
            continue
        # Object stores mark a folder with a slash. Names that end like an
        # image are not asked about: that would be a request for every file.
        is_folder = name.endswith("/") or (
            not bare.lower().endswith(extensions)
            and tf.io.gfile.isdir(_join(path, bare))
        )
        yield bare, _FOLDER if is_folder else _FILE, False


def _check_root(root: str, remote: bool) -> None:
    exists = tf.io.gfile.exists if remote else os.path.exists
    is_folder = tf.io.gfile.isdir if remote else os.path.isdir
    shown = printable(root)
    if not exists(root):
        here = "" if remote else f" (looked for from {os.getcwd()!r})"
        raise UserError(
            f"Received the root {shown!r}, which does not exist{here}; "
            "expected a directory with one folder of images per class. "
            "Correct ImageFolder.root."
        )
    if not is_folder(root):
        raise UserError(
            f"Received the root {shown!r}, which is a file; expected a "
            "directory with one folder of images per class. Unpack it, if it "
            "is an archive, and give the directory."
        )


def _split_places(walk: _Walk) -> dict[str, str]:
    """Where each split lies, as a path below the root."""
    top = walk.look("")[0]
    places: dict[str, str] = {}
    for name in top:
        split = SPLITS.get(name.lower())
        if split in places:
            raise UserError(
                f"Received two folders for the {split} split in "
                f"{printable(walk.root)!r}: {places[split]!r} and {name!r}; "
                "expected one. Merge them or move one away."
            )
        if split:
            places[split] = name
    # "train" may also be a class, beside "bus": then it holds images.
    if "train" not in places:
        return {"train": ""}
    folders, images, _ = walk.look(places["train"])
    if images or len(folders) < 2:
        return {"train": ""}
    for name in walk.class_folders(""):
        if name not in places.values():
            walk.leave_out("folders beside the splits", name)
    order = ("train", "validation", "test")
    return {split: places[split] for split in order if split in places}


def _find(walk: _Walk, place: str, class_names: Sequence[str] | None) -> Files:
    """The images of each class folder in `place` that holds any."""
    found: Files = {}
    for name in walk.class_folders(place):
        path = _join(place, name)
        if class_names is not None and name not in class_names:
            walk.leave_out("classes not asked for", path)
            continue
        found[name] = walk.class_images(place, name)
        if not found[name]:
            walk.leave_out("class folders without images", path)
    return {name: files for name, files in found.items() if files}


def _class_names(
    walk: _Walk,
    train: Files,
    asked: Sequence[str] | None,
    place: str,
) -> list[str]:
    """The classes in the order of their labels."""
    where = printable(_join(walk.root, place))
    known = list(train)
    for name in asked or ():
        if name not in train:
            folders = walk.look(place)[0]
            reason = (
                "whose folder holds no images"
                if name in folders
                else "which is no folder"
            )
            raise UserError(
                f"Received the class {name!r}, {reason} in {where!r}; "
                f"expected one of {_some(folders)}. {nearest(name, folders)}"
                " Correct ImageFolder.class_names.".replace("  ", " ")
            )
    if asked is not None and len(set(asked)) < len(asked):
        twice = sorted({n for n in asked if list(asked).count(n) > 1})
        raise UserError(
            f"Received the class {twice[0]!r} twice in "
            "ImageFolder.class_names; expected each class once. Take one away."
        )
    names = list(asked) if asked is not None else known
    if asked is None and names and all(n.lower() in SPLITS for n in names):
        raise UserError(
            f"Received {where!r} with images directly in {_some(names)}; "
            "expected folders of classes in these folders of splits, as in "
            "train/cat/1.jpg. Sort the images into them, or, if these are "
            "indeed classes, list them in ImageFolder.class_names."
        )
    if len(names) < 2:
        folders, images, _ = walk.look(place)
        beside = f" and {len(images)} images beside them" if images else ""
        with_images = f" ({_some(known)})" if known else ""
        raise UserError(
            f"Received {where!r} with {len(folders)} folders{beside}, of which"
            f" {len(names)} hold images that count{with_images}; expected at "
            "least 2: one folder per class, named like it, with files that "
            f"end in {', '.join(walk.extensions)} inside. Sort the images "
            "into such folders or correct ImageFolder.root."
        )
    return names


def _check_splits(
    walk: _Walk, found: dict[str, Files], names: Sequence[str]
) -> None:
    """All splits must have the classes of "train"; "test" may lack some.

    Without an example of a class the measured figures leave it out, which a
    test set may choose to; a validation set decides which weights are kept.
    """
    for split, files in found.items():
        extra = [name for name in files if name not in names]
        if extra:
            raise UserError(
                f"Received the {split} split with images of {_some(extra)}, "
                "of which the train split has none; expected the classes "
                f"{_some(names)}. Add images to train, move these away, or "
                "name the classes in ImageFolder.class_names."
            )
        missing = [name for name in names if name not in files]
        if missing and (split != "test" or len(missing) == len(names)):
            raise UserError(
                f"Received the {split} split without images of "
                f"{_some(missing)}; expected all the classes of the train "
                f"split: {_some(names)}. Add some, or take the split's folder "
                "away (one is then cut off from train)."
            )
        if missing:
            walk.remark(f"The test split has no images of {_some(missing)}.")


def _examples(
    root: str, files: Files, names: Sequence[str], remote: bool
) -> IndexedExamples:
    paths = [path for name in names for path in files.get(name, ())]
    counts = [len(files.get(name, ())) for name in names]
    # Bytes: a file name need not be valid in any encoding.
    encoded = tf.constant([os.fsencode(path) for path in paths], tf.string)
    start = os.fsencode(_join(root, ""))
    return IndexedExamples(
        ids=np.array([printable(path) for path in paths], object),
        labels=np.repeat(np.arange(len(names), dtype=np.int64), counts),
        rows=np.arange(len(paths), dtype=np.int64),
        read=lambda row: tf.io.read_file(
            tf.strings.join([start, tf.gather(encoded, row)])
        ),
        path=None if remote else lambda row: _join(root, paths[row]),
    )


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder else name


def printable(path: str) -> str:
    """`path` with what is not valid UTF-8 and controls written as escapes."""
    if path.isascii() and path.isprintable():
        return path  # The same object: of many paths memory holds each once.
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text.translate(_CONTROLS)


def _some(names: Sequence[str]) -> str:
    shown = [repr(printable(name)) for name in names[:8]]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")
