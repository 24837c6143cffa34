"""Turns (split, index, seed) into a picture of a hand, uint8 [300, 300, 3].

Each piece of flesh is a round cone whose depth under an orthographic ray has
a closed form; depths are joined by a smooth maximum where skin is continuous
and by a plain one between fingers. Colour, folds, nails, occlusion and light
are then functions of the depth map. NumPy and Pillow do it all, so a process
that only renders starts fast; nothing here may import TensorFlow.
"""

import dataclasses
import functools
import io

import numpy as np
from PIL import Image, ImageFilter

from framework.data.rendered_hands import backdrop, skeleton
from framework.data.rendered_hands.skeleton import (
    CLASS_NAMES,
    PALM,
    PAPER,
    ROCK,
    SCISSORS,
    SLEEVE,
)

SIZE = 300  # pixels, as in TFDS's rock_paper_scissors
SPLITS = ("train", "test")
_OVER = 4 / 3  # hands are drawn this much finer, then averaged down
_SIDE = int(SIZE * _OVER)
_FROM = (0.36, 0.12, 0.12, 0.4)  # how often an arm comes from which side
_FAR = np.float32(-1e5)  # the depth, in pixels, of what is not there
_CELLS = 40
_TEST_CELLS = np.arange(2, _CELLS, 5)
_TRAIN_CELLS = np.setdiff1d(np.arange(_CELLS), _TEST_CELLS)

# Skin in sRGB from the lightest to the darkest, by eye from photographs.
_SKIN = np.array(
    [
        [248, 220, 205],
        [238, 200, 176],
        [226, 180, 148],
        [208, 156, 120],
        [178, 126, 90],
        [138, 92, 64],
        [98, 64, 46],
        [68, 46, 36],
    ]
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """What an image shows, before any pixel exists.

    Attributes:
        label: 0 rock, 1 paper, 2 scissors.
        breadth, tone, turn, roll: the four numbers in 0..1 by which the
            splits differ: the hand's proportions, its skin, and the camera's
            place around the hand and about its own axis.
        hand: the posed skeleton.
        left: a left hand.
        palm_up: the palm, not the back, faces the camera.
        rotation: float64 `[3, 3]`, from the hand's frame to the camera's:
            x right, y up, z towards the camera.
        distance: mm from the camera to the hand.
        sleeve_at: mm from the wrist, or `None` for a bare arm.
    """

    label: int
    breadth: float
    tone: float
    turn: float
    roll: float
    hand: skeleton.Skeleton
    left: bool
    palm_up: bool
    rotation: np.ndarray
    distance: float
    sleeve_at: float | None


def generator(split: str, index: int, seed: int) -> np.random.Generator:
    """The one source of randomness of an image."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {SPLITS}.")
    return np.random.default_rng([seed, SPLITS.index(split), index])


def label_of(index: int) -> int:
    """The class of an image; every third index, so that classes balance."""
    return index % len(CLASS_NAMES)


def _strip(rng: np.random.Generator, split: str) -> float:
    """A number in 0..1 that the other split never draws.

    The range is cut into 40 strips, every fifth of which is the test's: both
    splits cover the whole range and share no value.
    """
    cells = _TEST_CELLS if split == "test" else _TRAIN_CELLS
    return float((rng.choice(cells) + rng.uniform()) / _CELLS)


def scene(split: str, index: int, rng: np.random.Generator) -> Scene:
    """Draws pose, person and camera for an image."""
    label = label_of(index)
    breadth, tone, turn, roll = (_strip(rng, split) for _ in range(4))
    person = skeleton.draw_proportions(rng, breadth)
    hand = skeleton.pose(rng, label, person)
    left = bool(rng.uniform() < 0.5)
    palm_up = bool(rng.uniform() < 0.4)

    # Around the forearm's axis: a fist reads from any side, the other two
    # only with their spread side towards the camera.
    reach = {ROCK: 62.0, PAPER: 46.0, SCISSORS: 40.0}[label]
    yaw = (2 * turn - 1) * reach
    if label == ROCK and rng.uniform() < 0.12:
        yaw = 90.0 + 0.5 * yaw  # the thumb's side
        palm_up = False
    pitch = np.clip(rng.normal(0.0, 0.55), -1, 1) * 27.0
    if label == ROCK and not palm_up:
        pitch += 6.0  # knuckles towards the camera, as on photographs
    # Arms come up from below, in from a side, or from anywhere.
    angle = (2 * roll - 1) * 180.0
    comes = rng.choice(("below", "left", "right", "anywhere"), p=_FROM)
    if comes != "anywhere":
        angle = (
            0.22 * angle + {"below": 0.0, "left": -90.0, "right": 90.0}[comes]
        )
    yaw, pitch, angle = np.radians([yaw + 180.0 * palm_up, pitch, angle])
    rotation = _about(2, angle) @ _about(0, pitch) @ _about(1, yaw)
    if left:
        rotation = rotation @ np.diag([-1.0, 1.0, 1.0])
    sleeve_at = None
    if rng.uniform() < 0.45:
        sleeve_at = float(rng.choice([12.0, 45.0, 90.0, 140.0]))
        sleeve_at += rng.uniform(0.0, 30.0)
    return Scene(
        label=label,
        breadth=breadth,
        tone=tone,
        turn=turn,
        roll=roll,
        hand=hand,
        left=left,
        palm_up=palm_up,
        rotation=rotation,
        distance=rng.uniform(420.0, 1200.0),
        sleeve_at=sleeve_at,
    )


def _about(axis: int, angle: float) -> np.ndarray:
    """The rotation `[3, 3]` by `angle` radians about x, y or z."""
    i, j = [k for k in range(3) if k != axis]
    r = np.eye(3)
    r[i, i] = r[j, j] = np.cos(angle)
    r[j, i] = np.sin(angle) * (-1 if axis == 1 else 1)
    r[i, j] = -r[j, i]
    return r


@dataclasses.dataclass(frozen=True)
class _View:
    """Flesh in the camera's frame, in pixels of the fine image.

    x runs right, y *down* and z towards the camera.
    """

    cones: skeleton.RoundCones
    scale: float  # pixels per mm at the hand's distance
    shift: np.ndarray  # [2], where the wrist lies
    scene: Scene

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points `[N, 3]`, mm in the hand's frame, to pixels and depth."""
        p = points @ self.scene.rotation.T
        f = _closeness(p[:, 2], self.scene.distance)[:, None]
        x, y, z = p[:, 0:1], p[:, 1:2], p[:, 2:3]
        flat = self.scale * f * np.concatenate([x, -y], 1) + self.shift
        return np.concatenate([flat, self.scale * z], 1)


def _closeness(z: np.ndarray, distance: float) -> np.ndarray:
    """How much larger a thing z mm nearer than the hand looks."""
    return distance / np.maximum(distance - z, 0.6 * distance)


def _frame(sc: Scene, rng: np.random.Generator) -> _View:
    """Chooses scale and place so that the hand lies inside the picture."""
    cones = skeleton.flesh(sc.hand, sc.sleeve_at)
    points = sc.hand.joints.reshape(-1, 3)
    radii = sc.hand.radii.reshape(-1)
    points = np.concatenate([points, [[0.0, -10.0, 0.0]]])
    radii = np.concatenate([radii, [20.0]])
    unit = _View(cones, 1.0, np.zeros(2), sc)
    flat = unit.project(points)[:, :2]
    low = (flat - radii[:, None]).min(0)
    high = (flat + radii[:, None]).max(0)
    extent = (high - low).max()
    # A fist is photographed from a little nearer than an open hand.
    near = {ROCK: 1.25, PAPER: 1.0, SCISSORS: 1.05}[sc.label]
    scale = rng.uniform(0.9, 1.9) * near * _OVER
    # Some hands are too near to fit in.
    most = 1.12 if rng.uniform() < 0.12 else 0.94
    scale = np.clip(scale, 0.42 * _SIDE / extent, most * _SIDE / extent)
    room = _SIDE - scale * (high - low)
    where = rng.beta(2.0, 2.0, 2)
    if rng.uniform() < 0.4:
        # Pushed in from the arm's side, which hardly shows.
        arm = -sc.rotation[:2, 1] * [1.0, -1.0]
        arm /= max(np.abs(arm).max(), 1e-6)
        along = np.abs(arm)
        where = where + along * (0.5 + 0.5 * arm - where)
        where = where + rng.uniform(0.0, 0.25) * np.sign(arm) * (along > 0.9)
    return _View(cones, float(scale), where * room - scale * low, sc)


def _paint_cone(
    ax: float,
    ay: float,
    az: float,
    ra: float,
    bx: float,
    by: float,
    bz: float,
    rb: float,
    open_end: bool,
    shape: tuple[int, int],
) -> tuple[np.ndarray, slice, slice] | None:
    """Depth of one round cone in its bounding box.

    With s along the projected axis, q across it, L and c the axis' extent in
    the picture and in depth, D = ra - rb and k = L^2 - D^2, the quadric that
    touches both balls lies at

        z = [c (L s - D ra) + sqrt(k + c^2) sqrt((L ra - D s)^2 - k q^2)] / k

    between the two circles of contact; the balls cap it.

    Returns:
        Float32 depth with `_FAR` outside the cone, rows, columns; or `None`
        when the box lies outside the picture.
    """
    x0 = max(int(min(ax - ra, bx - rb)) - 1, 0)
    x1 = min(int(max(ax + ra, bx + rb)) + 2, shape[1])
    y0 = max(int(min(ay - ra, by - rb)) - 1, 0)
    y1 = min(int(max(ay + ra, by + rb)) + 2, shape[0])
    if x0 >= x1 or y0 >= y1:
        return None
    length = float(np.hypot(bx - ax, by - ay))
    c, d = bz - az, ra - rb
    k = length**2 - d**2
    if k < 0.02 * max(ra, rb) ** 2:
        # Seen end on: one ball hides the other's edge.
        out = np.full((y1 - y0, x1 - x0), _FAR, np.float32)
        for t in np.linspace(0, 1, 5):
            _paint_ball(
                out,
                ax + t * (bx - ax) - x0,
                ay + t * (by - ay) - y0,
                az + t * c,
                ra + t * (rb - ra),
            )
        return out, slice(y0, y1), slice(x0, x1)

    ux, uy = (bx - ax) / length, (by - ay) / length
    x = np.arange(x0 + 0.5 - ax, x1 - ax, dtype=np.float32)[: x1 - x0]
    y = np.arange(y0 + 0.5 - ay, y1 - ay, dtype=np.float32)[: y1 - y0]
    x, y = x[None, :], y[:, None]
    s = x * np.float32(ux) + y * np.float32(uy)
    q = y * np.float32(ux) - x * np.float32(uy)
    root = np.float32(k**0.5)
    half = np.float32(length * ra / root) - np.float32(d / root) * s
    q *= q
    square = half * half
    square -= q
    inside = (square > 0) & (half > 0)
    np.maximum(square, 0, out=square)
    z = np.sqrt(square, out=square)
    z *= np.float32(((k + c * c) / k) ** 0.5)
    s *= np.float32(length)
    if c:
        z += np.float32(c / k) * (s - np.float32(d * ra))
    along = s + np.float32(c) * z
    along -= np.float32(ra * d)
    inside &= along > 0
    inside &= along < np.float32(k + c * c)
    z += np.float32(az)
    out = np.where(inside, z, _FAR)
    if not open_end:
        _paint_ball(out, ax - x0, ay - y0, az, ra)
    _paint_ball(out, bx - x0, by - y0, bz, rb)
    return out, slice(y0, y1), slice(x0, x1)


def _paint_ball(
    out: np.ndarray, cx: float, cy: float, cz: float, r: float
) -> None:
    """Raises `out` to the ball's depth where the ball is nearer."""
    h, w = out.shape
    x0, x1 = max(int(cx - r), 0), min(int(cx + r) + 1, w)
    y0, y1 = max(int(cy - r), 0), min(int(cy + r) + 1, h)
    if x0 >= x1 or y0 >= y1:
        return
    x = np.arange(x0, x1, dtype=np.float32) + np.float32(0.5 - cx)
    y = np.arange(y0, y1, dtype=np.float32) + np.float32(0.5 - cy)
    square = (np.float32(r * r) - x * x)[None, :] - (y * y)[:, None]
    part = out[y0:y1, x0:x1]
    ball = np.sqrt(np.maximum(square, 0)) + np.float32(cz)
    np.maximum(part, np.where(square > 0, ball, _FAR), out=part)


def _depth(view: _View) -> tuple[np.ndarray, np.ndarray, int, int]:
    """The depth of hand and arm, and which cone shows.

    Returns:
        Float32 `[H, W]` in pixels, `_FAR` where nothing is; int16 `[H, W]`,
        -1 where nothing is; the row and the column of the picture at which
        these rectangles begin. They hold all of the hand that can be seen.
    """
    cones = view.cones
    start, end = view.project(cones.start), view.project(cones.end)
    z_start = cones.start @ view.scene.rotation[2]
    z_end = cones.end @ view.scene.rotation[2]
    distance = view.scene.distance
    ra = cones.start_radius * view.scale * _closeness(z_start, distance)
    rb = cones.end_radius * view.scale * _closeness(z_end, distance)
    blend = cones.blend * view.scale
    low = np.minimum(start[:, :2] - ra[:, None], end[:, :2] - rb[:, None])
    high = np.maximum(start[:, :2] + ra[:, None], end[:, :2] + rb[:, None])
    left, top = np.clip(low.min(0) - 1, 0, _SIDE).astype(int)
    right, bottom = np.clip(high.max(0) + 2, 0, _SIDE).astype(int)
    for points in (start, end):
        points[:, :2] -= [left, top]
    shape = (int(bottom - top), int(right - left))
    depth = np.full(shape, _FAR, np.float32)
    which = np.full(shape, -1, np.int16)
    cloth = np.full(shape, _FAR, np.float32)
    # What is one skin first, then what keeps its edges.
    loose = cones.blend < skeleton.ONE_SKIN
    order = np.argsort(loose, kind="stable")
    smooth = False
    for i in order:
        if loose[i] and not smooth:
            # The palm is one skin: its bones' ends should not show.
            _melt(depth, which >= 0)
            smooth = True
        sleeve = cones.digit[i] == SLEEVE
        painted = _paint_cone(*start[i], ra[i], *end[i], rb[i], sleeve, shape)
        if painted is None:
            continue
        z, rows, columns = painted
        old = (cloth if sleeve else depth)[rows, columns]
        if not sleeve:
            np.copyto(which[rows, columns], i, where=z > old)
        if blend[i] > 0:
            _smooth_maximum(old, z, blend[i])
        else:
            np.maximum(old, z, out=old)
    worn = np.flatnonzero(cones.digit == SLEEVE)
    if len(worn):
        over = (cloth > depth) & (cloth > _FAR / 2)
        np.copyto(depth, cloth, where=over)
        np.copyto(which, worn[0], where=over)
    return depth, which, int(top), int(left)


def _smooth_maximum(old: np.ndarray, new: np.ndarray, k: float) -> None:
    """`old` = max(old, new), rounded where they are within `k`; in place.

    The quadratic polynomial of https://iquilezles.org/articles/smin/.
    """
    k = np.float32(k)
    h = k - np.abs(old - new)
    np.maximum(h, 0, out=h)
    h *= h
    h *= np.float32(0.25) / k
    np.maximum(old, new, out=old)
    old += h


def _blur(
    a: np.ndarray, cover: np.ndarray, by: int
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of `a` over what is covered, by shrinking and growing back.

    Args:
        a: float32 `[H, W]`, 0 where nothing is.
        cover: float32 `[H, W]`, 1 where something is.
        by: how many pixels become one.

    Returns:
        The mean and the covered share, both float32 `[H, W]`.
    """
    small = np.asarray(Image.fromarray(a).reduce(by))
    share = np.asarray(Image.fromarray(cover).reduce(by))
    mean = small / np.maximum(share, np.float32(0.02))
    return _grow(mean, by, a.shape), _grow(share, by, a.shape)


def _grow(a: np.ndarray, by: int, shape: tuple[int, int]) -> np.ndarray:
    """`a` enlarged `by` times and cut to `shape`."""
    size = (a.shape[1] * by, a.shape[0] * by)
    image = Image.fromarray(a).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image)[: shape[0], : shape[1]]


def _even_out(
    depth: np.ndarray,
    cover: np.ndarray,
    times: int,
    edge: float,
    slope: float,
) -> np.ndarray:
    """Smooths skin over its joints, but not across edges or at the outline.

    Args:
        depth: float32 `[H, W]`, 0 outside the hand.
        cover: float32 `[H, W]`, 1 inside the hand.
        times: how many running means are taken, one after the other.
        edge: pixels of depth; a greater step is an edge and stays.
        slope: squared, above which smoothing weakens. Both may be infinite.
    """
    inside = _box(cover)
    share = np.float32(1) / np.maximum(inside, np.float32(0.1))
    # Fading out where less and less of the window lies inside.
    fade = np.maximum((inside - np.float32(0.7)) * np.float32(1 / 0.3), 0)
    fade *= fade
    # Steep parts turn away from the camera; what moves them in depth moves
    # their surface little, and the outline a lot.
    steep = np.ones_like(depth)
    steep[:, 1:-1] += (depth[:, 2:] - depth[:, :-2]) ** 2 * np.float32(0.25)
    steep[1:-1] += (depth[2:] - depth[:-2]) ** 2 * np.float32(0.25)
    fade /= np.maximum(steep - np.float32(slope), 1)
    for _ in range(times):
        off = _box(depth)
        off *= share
        off -= depth
        keep = off * np.float32(1 / edge)
        keep *= keep
        keep *= keep
        keep += 1
        off /= keep
        off *= fade
        depth = depth + off
    return depth


def _melt(depth: np.ndarray, solid: np.ndarray) -> None:
    """Smooths over some 10 mm, at half the resolution; in place."""
    cover = solid.astype(np.float32)
    small = np.asarray(Image.fromarray(depth * cover).reduce(2))
    share = np.asarray(Image.fromarray(cover).reduce(2))
    small = small / np.maximum(share, np.float32(0.02))
    whole = (share > 0.5).astype(np.float32)
    small *= whole
    smooth = _even_out(small, whole, 2, np.inf, np.inf)
    share = np.clip((_box(whole) - np.float32(0.7)) * 4, 0, 1)
    change = _grow(smooth, 2, depth.shape) - depth
    change *= _grow(share, 2, depth.shape)
    depth += change * cover


def _box(a: np.ndarray) -> np.ndarray:
    """Mean of the 9 by 9 pixels about each, zeros outside; float32."""
    a = np.pad(a, 4)
    for step in (1, 3):  # three neighbours, then three such threes
        rows = a[: -2 * step] + a[step:-step]
        rows += a[2 * step :]
        a = rows[:, : -2 * step] + rows[:, step:-step]
        a += rows[:, 2 * step :]
    a *= np.float32(1 / 81)
    return a


def _slopes(depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The depth's derivatives along x and y, both float32 `[H, W]`.

    Of the differences to the two neighbours the smaller counts, so that a
    finger's edge does not shade what lies behind it.
    """
    h, w = depth.shape
    dx = np.zeros((h, w + 1), np.float32)
    np.subtract(depth[:, 1:], depth[:, :-1], out=dx[:, 1:-1])
    dy = np.zeros((h + 1, w), np.float32)
    np.subtract(depth[1:], depth[:-1], out=dy[1:-1])
    x = np.where(np.abs(dx[:, 1:]) < np.abs(dx[:, :-1]), dx[:, 1:], dx[:, :-1])
    y = np.where(np.abs(dy[1:]) < np.abs(dy[:-1]), dy[1:], dy[:-1])
    # At the very outline slopes grow without bound and would flicker.
    return np.clip(x, -3, 3), np.clip(y, -3, 3)


def _shadowed(
    depth: np.ndarray, solid: np.ndarray, light: np.ndarray
) -> np.ndarray:
    """How much of the light the hand itself takes away, 0..1, `[H, W]`.

    A march over the depth map towards the light at half the resolution.
    """
    z = depth[::2, ::2]
    high, wide = z.shape
    flat = np.hypot(light[0], light[1])
    if flat < 1e-3:
        return np.zeros_like(depth)
    shadow = np.zeros((high, wide), np.float32)
    for step in (3, 5, 8, 12, 17, 23, 30):
        dx, dy = np.round(step * light[:2] / flat).astype(int).tolist()
        rise = np.float32(2 * step * light[2] / flat)
        if abs(dy) >= high or abs(dx) >= wide:
            break
        here_y = slice(max(-dy, 0), high - max(dy, 0))
        here_x = slice(max(-dx, 0), wide - max(dx, 0))
        there_y = slice(max(dy, 0), high - max(-dy, 0))
        there_x = slice(max(dx, 0), wide - max(-dx, 0))
        over = z[there_y, there_x] - z[here_y, here_x]
        over -= rise
        over *= np.float32(1 / (2.0 + 0.25 * step))
        np.clip(over, 0, 1, out=over)
        part = shadow[here_y, here_x]
        np.maximum(part, over, out=part)
    shadow[~solid[::2, ::2]] = 0
    image = Image.fromarray(shadow).resize(
        (2 * wide, 2 * high), Image.Resampling.BILINEAR
    )
    return np.asarray(image)[: depth.shape[0], : depth.shape[1]]


def _linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB 0..255 to linear light 0..1, by the plain 2.2 power."""
    return (np.asarray(srgb, np.float64) / 255.0) ** 2.2


@functools.cache
def _grain() -> np.ndarray:
    """Fixed unit noise, float32 `[384, 384]`; images take pieces of it."""
    rng = np.random.default_rng(20100755)
    return rng.standard_normal((384, 384), np.float32)


def _noise(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """Smooth noise about 0 within about -1..1, float32 `[side, side]`."""
    small = rng.random((cells, cells), np.float32) * 2 - 1
    image = Image.fromarray(small).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    return np.asarray(image)


def _skin(
    view: _View,
    rng: np.random.Generator,
    which: np.ndarray,
    where: np.ndarray,
    position: np.ndarray,
    normal: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Colour and gloss of the hand's pixels.

    Args:
        view: the scene as seen.
        rng: draws mottles, lines and clothes.
        which: `[N]` cone of each pixel.
        where: `[N]` flat index of each pixel.
        position: float32 `[N, 3]`, mm, camera's frame from the wrist.
        normal: float32 `[N, 3]`, camera's frame.

    Returns:
        Linear albedo float32 `[N, 3]` and gloss float32 `[N]`.
    """
    sc, cones = view.scene, view.cones
    rotation = sc.rotation.astype(np.float32)
    out = (cones.dorsal.astype(np.float32) @ rotation.T)[which]
    back = np.einsum("ij,ij->i", normal, out)
    palmar = np.clip(0.35 - 1.1 * back, 0, 1)  # 1 on the palm's side
    palmar = _spread(palmar, where)

    base = np.array(
        [np.interp(sc.tone * 7, np.arange(8), _SKIN[:, i]) for i in range(3)]
    )
    base = base * (1 + rng.normal(0, [0.015, 0.02, 0.035]))
    base = _linear(np.clip(base, 20, 252))
    # Palms hold little melanin, at any tone.
    pale = _linear(np.array([226.0, 172.0, 148.0]))
    mixed = base + (pale - base) * (0.06 + 0.32 * sc.tone**2)
    red = rng.uniform(0.0, 1.0) * (1 - 0.6 * sc.tone)
    flush = 1 + red * np.array([0.03, -0.08, -0.07])
    albedo = base.astype(np.float32) + palmar[:, None] * (
        (mixed * flush - base).astype(np.float32)
    )

    mottle = 0.6 * _noise(rng, 90, 9) + 0.5 * _noise(rng, 90, 24)
    mottle += 0.5 * _noise(rng, 90, 90)
    mottle = Image.fromarray(mottle).resize(
        (_SIDE, _SIDE), Image.Resampling.BICUBIC
    )
    amount = np.float32(rng.uniform(0.03, 0.1))
    tint = 1 + amount * np.asarray(mottle).ravel()[where]

    table = np.concatenate(
        [
            cones.crease @ sc.rotation.T,
            _axes(cones) @ sc.rotation.T,
        ],
        1,
    ).astype(np.float32)[which]
    along = np.einsum("ij,ij->i", position - table[:, :3], table[:, 3:])
    near = np.abs(along) < 9
    u = along[near]
    line = np.exp(-((u / 0.9) ** 2)) + 0.6 * np.exp(-(((u - 2.8) / 0.8) ** 2))
    ridges = 0.55 + 0.45 * np.cos(u * 2.0)
    knuckle = np.exp(-((u / 4.2) ** 2))
    age = rng.uniform(0.3, 1.0)
    folds = palmar[near] * 0.26 * line
    folds += (1 - palmar[near]) * 0.17 * age * knuckle * ridges
    tint[near] *= 1 - folds
    albedo[near] *= 1 + ((1 - palmar[near]) * knuckle * (0.5 + 0.5 * red))[
        :, None
    ] * np.array([0.02, -0.12, -0.10], np.float32)

    _palm_lines(view, rng, which, position, palmar, tint)
    albedo *= tint[:, None]
    gloss = np.full(len(which), rng.uniform(0.03, 0.11), np.float32)
    _nails(view, which, position, albedo, gloss, base)
    _clothe(view, rng, which, position, normal, albedo, gloss)
    return albedo, gloss


def _spread(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Values `[N]` of the pixels `where`, blurred over some 5 mm."""
    planes = np.zeros((2, _SIDE * _SIDE), np.float32)
    planes[0, where], planes[1, where] = values, 1
    planes = planes.reshape(2, _SIDE, _SIDE)
    small, share = (np.asarray(Image.fromarray(p).reduce(9)) for p in planes)
    mean = small / np.maximum(share, np.float32(0.02))
    return _grow(mean, 9, (_SIDE, _SIDE)).ravel()[where]


def _axes(cones: skeleton.RoundCones) -> np.ndarray:
    axes = cones.end - cones.start
    return axes / np.linalg.norm(axes, axis=1, keepdims=True)


def _palm_lines(
    view: _View,
    rng: np.random.Generator,
    which: np.ndarray,
    position: np.ndarray,
    palmar: np.ndarray,
    tint: np.ndarray,
) -> None:
    """Darkens `tint` along the palm's lines and the back's tendons."""
    on_palm = np.flatnonzero(view.cones.digit[which] == PALM)
    if not len(on_palm):
        return
    size = view.scene.hand.proportions.size
    local = position[on_palm] @ view.scene.rotation.astype(np.float32)
    local /= np.float32(size)
    x, y = local[:, 0], local[:, 1]
    wobble = rng.normal(0.0, 1.5, 3).astype(np.float32)
    depth, strength = rng.uniform([0.12, 0.0], [0.3, 0.1])
    if view.scene.palm_up:
        # Life, head and heart lines: arcs that every palm has.
        life = np.hypot(x - 34, (y - 34) * 0.85) - 34 - wobble[0]
        life[(y < 8) | (y > 68)] = 99
        head = y - (62 + wobble[1] + 0.30 * (x + 4) + 0.004 * (x + 4) ** 2)
        head[(x < -26) | (x > 26)] = 99
        heart = y - (72 + wobble[2] - 0.10 * x + 0.008 * (x - 4) ** 2)
        heart[(x < -36) | (x > 14)] = 99
        off = np.minimum(np.minimum(abs(life), abs(head)), abs(heart))
        line = np.exp(-((off * np.float32(0.9)) ** 2)) * palmar[on_palm]
        tint[on_palm] *= 1 - np.float32(depth) * line
        return
    # Tendons run from the wrist to each knuckle on the back.
    knuckles = view.scene.hand.joints[1:, 0] / size
    t = np.clip(y * np.float32(1 / 90), 0.15, 1)
    ridges = np.zeros_like(x)
    for knuckle in knuckles.astype(np.float32):
        off = (x - knuckle[0] * t) * np.float32(0.4)
        ridges += np.exp(-(off * off))
        off = (off - 2) * np.float32(0.83)
        ridges -= np.float32(0.7) * np.exp(-(off * off))
    ridges *= np.float32(strength) * (1 - palmar[on_palm])
    tint[on_palm] *= 1 + ridges


def _nails(
    view: _View,
    which: np.ndarray,
    position: np.ndarray,
    albedo: np.ndarray,
    gloss: np.ndarray,
    base: np.ndarray,
) -> None:
    """Lays a pale glossy oval on the back of each last phalanx."""
    sc, cones = view.scene, view.cones
    hand = sc.hand
    pink = base * 0.55 + _linear(np.array([236.0, 190.0, 178.0])) * 0.45
    for digit in range(5):
        out = sc.rotation @ hand.dorsal[digit, 2]
        if out[2] < -0.3:
            continue
        last = (cones.digit == digit) & (cones.phalanx == 2)
        mine = np.flatnonzero(last[which])
        if not len(mine):
            continue
        tip = hand.joints[digit, 3]
        axis = tip - hand.joints[digit, 2]
        axis = sc.rotation @ (axis / np.linalg.norm(axis))
        radius = hand.radii[digit, 3]
        p = position[mine] - (sc.rotation @ tip).astype(np.float32)
        u = p @ axis.astype(np.float32) / np.float32(radius)
        v = p @ np.cross(out, axis).astype(np.float32) / np.float32(radius)
        w = p @ out.astype(np.float32) / np.float32(radius)
        oval = ((u + 0.25) / 0.98) ** 4 + (v / 0.70) ** 4
        nail = np.clip((1.0 - oval) * 4, 0, 1) * (w > 0.25)
        rim = np.exp(-(((oval - 1.15) / 0.28) ** 2)) * (w > 0.25)
        albedo[mine] *= 1 - 0.22 * rim[:, None]
        edge = np.clip((u - 0.50) * 6, 0, 1)[:, None]
        colour = pink + edge * (_linear([236, 218, 205]) - pink) * 0.35
        albedo[mine] += nail[:, None] * (
            colour.astype(np.float32) - albedo[mine]
        )
        gloss[mine] += 0.10 * nail


def _clothe(
    view: _View,
    rng: np.random.Generator,
    which: np.ndarray,
    position: np.ndarray,
    normal: np.ndarray,
    albedo: np.ndarray,
    gloss: np.ndarray,
) -> None:
    """Gives the sleeve's pixels a cloth's colour, with a hem and stripes."""
    colour = _linear(backdrop.colour(rng))
    stripes = rng.uniform() < 0.25
    other = _linear(backdrop.colour(rng))
    period = rng.uniform(8.0, 22.0)
    mine = np.flatnonzero(view.cones.digit[which] == SLEEVE)
    if not len(mine):
        return
    elbow = view.scene.hand.elbow
    axis = view.scene.rotation @ (elbow / np.linalg.norm(elbow))
    u = position[mine] @ axis.astype(np.float32)
    cloth = np.broadcast_to(colour, (len(mine), 3)).astype(np.float32)
    if stripes:
        on = (np.sin(u * np.float32(2 * np.pi / period)) > 0.3)[:, None]
        cloth = np.where(on, other.astype(np.float32), cloth)
    size = view.scene.hand.proportions.size
    hem = u / size - view.scene.sleeve_at
    cloth = cloth * (1 - 0.3 * np.exp(-(((hem - 14) / 1.2) ** 2)))[:, None]
    albedo[mine] = cloth
    gloss[mine] = 0.0


def layers(
    split: str, index: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The picture's three parts.

    Returns:
        The hand, float32 `[300, 300, 3]` in 0..255, times its coverage; the
        coverage, float32 `[300, 300, 1]` in 0..1, of hand and arm; the
        backdrop with the hand's shadow, float32 `[300, 300, 3]` in 0..255.
    """
    rng = generator(split, index, seed)
    return _layers(scene(split, index, rng), rng)


def _layers(
    sc: Scene, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    view = _frame(sc, rng)
    depth, which, top, left = _depth(view)
    solid = which >= 0
    cover = solid.astype(np.float32)
    filled = _even_out(np.where(solid, depth, 0), cover, 1, 2.0, 0.5)
    depth = np.where(solid, filled, _FAR)

    # Creases: where the surface lies below its surroundings; an outline
    # does too, but has no surroundings on one side.
    crease = np.zeros_like(depth)
    for by, weight in ((5, 0.55), (15, 0.45)):
        mean, share = _blur(filled, cover, by)
        sunk = (mean - filled) * np.float32(1.6 / by)
        sunk *= np.clip((share - np.float32(0.55)) * 3, 0, 1)
        np.clip(sunk, 0, 1, out=sunk)
        crease += np.float32(weight) * sunk

    light = _light(rng)
    shadow = _shadowed(depth, solid, light * [1, -1, 1])
    dx, dy = _slopes(depth)

    row, column = np.nonzero(solid)
    where = row * depth.shape[1] + column
    which = which.ravel()[where]
    dx, dy = dx.ravel()[where], dy.ravel()[where]
    z = depth.ravel()[where]
    shadow, crease = shadow.ravel()[where], crease.ravel()[where]
    # The camera's frame has y up, the picture's runs down.
    normal = np.stack([-dx, dy, np.ones_like(dx)], 1)
    normal /= np.sqrt(np.einsum("ij,ij->i", normal, normal))[:, None]
    mm = z / np.float32(view.scale)
    close = _closeness(mm, sc.distance).astype(np.float32)
    close *= np.float32(view.scale)
    row, column = row + top, column + left
    where = row * _SIDE + column
    position = np.empty_like(normal)
    position[:, 0] = column.astype(np.float32)
    position[:, 1] = row.astype(np.float32)
    position[:, :2] -= (view.shift - 0.5).astype(np.float32)
    position[:, :2] /= close[:, None]
    position[:, 1] *= -1
    position[:, 2] = mm

    albedo, gloss = _skin(view, rng, which, where, position, normal)
    lit = _shade(rng, light, normal, albedo, gloss, shadow, crease)
    rgba = np.zeros((_SIDE * _SIDE, 4), np.uint8)
    rgba[where, :3] = _encode_light(lit)
    rgba[where, 3] = 255
    image = Image.fromarray(rgba.reshape(_SIDE, _SIDE, 4))
    image = image.resize((SIZE, SIZE), Image.Resampling.HAMMING)
    rgba = np.asarray(image, np.float32)
    alpha = rgba[..., 3:] / np.float32(255)
    behind = backdrop.draw(rng, SIZE, sc.tone)
    behind = _cast(rng, behind, alpha[..., 0], light)
    return rgba[..., :3] * alpha, alpha, behind


def _light(rng: np.random.Generator) -> np.ndarray:
    """A unit vector to the lamp, mostly from above, never from behind."""
    azimuth = rng.normal(np.pi / 2, 1.0)
    height = np.radians(rng.uniform(28.0, 75.0))
    return np.array(
        [
            np.cos(azimuth) * np.cos(height),
            np.sin(azimuth) * np.cos(height),
            np.sin(height),
        ]
    )


def _shade(
    rng: np.random.Generator,
    light: np.ndarray,
    normal: np.ndarray,
    albedo: np.ndarray,
    gloss: np.ndarray,
    shadow: np.ndarray,
    crease: np.ndarray,
) -> np.ndarray:
    """Light that the pixels send to the camera, linear float32 `[N, 3]`.

    Light wraps round the terminator, most in red, as it does in skin, which
    scatters red the farthest.
    """
    key = rng.uniform(0.65, 1.05)
    ambient = rng.uniform(0.22, 0.5)
    warm = rng.normal(0.0, 0.05)
    colour = np.array([1 + warm, 1.0, 1 - 1.3 * warm])
    ndl = normal @ light.astype(np.float32)
    shade = 1 - np.float32(rng.uniform(0.5, 0.85)) * shadow
    sky = 0.78 + 0.22 * normal[:, 1]  # more light comes from above
    ambience = (ambient * sky * (1 - 0.75 * crease))[:, None]
    tint = np.array([1.0, 0.97, 0.95], np.float32)
    wrap = np.array([0.30, 0.18, 0.14], np.float32)
    diffuse = (ndl[:, None] + wrap) / (1 + wrap)
    np.maximum(diffuse, 0, out=diffuse)
    diffuse *= (shade * (1 - 0.4 * crease))[:, None]
    diffuse *= (key * colour).astype(np.float32)
    lit = albedo * (diffuse + ambience * tint)
    half = light + np.array([0.0, 0.0, 1.0])
    half = (half / np.linalg.norm(half)).astype(np.float32)
    shine = np.maximum(normal @ half, 0)
    shine *= shine
    shine *= shine
    shine *= shine  # ^8
    shine = shine * shine * 0.6 + shine * 0.4
    return lit + (gloss * shine * shade * key)[:, None]


def _encode_light(lit: np.ndarray) -> np.ndarray:
    """Linear light to sRGB 0..255, with a soft shoulder at white."""
    lit = np.clip(lit, 0, 4)
    level = (lit * np.float32(511)).astype(np.int32)
    return _curve()[np.minimum(level, 2047)]


@functools.cache
def _curve() -> np.ndarray:
    x = np.arange(2048) / 511.0
    x = np.where(x < 0.7, x, 0.7 + 0.3 * (1 - np.exp(-(x - 0.7) / 0.3)))
    return np.round(255 * x ** (1 / 2.2)).astype(np.uint8)


def _cast(
    rng: np.random.Generator,
    behind: np.ndarray,
    cover: np.ndarray,
    light: np.ndarray,
) -> np.ndarray:
    """Lets the hand's soft shadow fall on the backdrop."""
    strength, gap = rng.uniform(0.0, 0.6), rng.uniform(4.0, 40.0)
    soft = rng.uniform(1.0, 5.0)
    if rng.uniform() < 0.35:
        return behind  # the backdrop is far away
    slope = gap / light[2]
    offset = (int(-light[0] * slope), int(light[1] * slope))
    quarter = Image.fromarray((cover * 255).astype(np.uint8)).reduce(4)
    moved = Image.new("L", quarter.size)
    moved.paste(quarter, (offset[0] // 4, offset[1] // 4))
    moved = moved.filter(ImageFilter.GaussianBlur(soft))
    moved = moved.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    dark = np.asarray(moved, np.float32)[..., None]
    return behind * (1 - np.float32(strength / 255) * dark)


def render(split: str, index: int, seed: int = 0) -> np.ndarray:
    """The picture `index` of a split; the same bytes whoever asks.

    Args:
        split: `train` or `test`; their hands, skins and cameras differ.
        index: any number from 0; `label_of` gives its class.
        seed: another seed gives another data set.

    Returns:
        uint8 `[300, 300, 3]`, sRGB.
    """
    rng = generator(split, index, seed)
    hand, cover, behind = _layers(scene(split, index, rng), rng)
    return _photograph(rng, hand + behind * (1 - cover))


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """What a camera makes of it: exposure, colour cast, blur and noise."""
    image = image * rng.uniform(0.86, 1.08)
    image *= (1 + rng.normal(0, [0.025, 0.01, 0.03])).astype(np.float32)
    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    softness = rng.uniform()
    if softness < 0.3:
        # A small picture that somebody enlarged.
        small = int(np.exp(rng.uniform(np.log(24), np.log(200))))
        picture = picture.resize((small, small), Image.Resampling.BOX)
        picture = picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    elif softness < 0.6:
        radius = rng.uniform(0.3, 1.0)
        picture = picture.filter(ImageFilter.GaussianBlur(radius))
    x, y = rng.integers(0, 384 - SIZE, 2)
    noise = _grain()[y : y + SIZE, x : x + SIZE, None]
    image = np.asarray(picture, np.float32)
    image = image + noise * np.float32(rng.uniform(0.5, 3.2))
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def encode(image: np.ndarray) -> bytes:
    """uint8 `[H, W, 3]` to JPEG bytes of quality 92, without subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()
