"""Turns a random generator and a class into a posed hand, bones and flesh.

The hand's own frame, in millimetres: the wrist is the origin, +y runs along
the straight middle finger, +x points to the thumb's side and +z out of the
back of the hand. The same hand serves as a left and as a right one: which it
becomes is a mirror in the camera.
"""

import dataclasses

import numpy as np

CLASS_NAMES = ("rock", "paper", "scissors")  # the order of TFDS's data set
ROCK, PAPER, SCISSORS = range(3)
THUMB, INDEX, MIDDLE, RING, LITTLE = range(5)

# Mean lengths of the phalanges of 66 adults, in mm, proximal, middle, distal
# (the thumb: metacarpal, proximal, distal), with the soft tissue at the tip:
# Buryanov & Kotiuk, "Proportions of Hand Segments", Int. J. Morphol. 28(3),
# 2010, 755-758, https://www.scielo.cl/pdf/ijmorphol/v28n3/art15.pdf
BONES = np.array(
    [
        [46.2, 31.6, 21.7 + 5.7],
        [39.8, 22.4, 15.8 + 3.8],
        [44.6, 26.3, 17.4 + 4.0],
        [41.4, 25.7, 17.3 + 4.0],
        [32.7, 18.1, 16.0 + 3.7],
    ]
)
# Where each digit's first joint lies. The fingers' knuckles are as far from
# the wrist as the paper's metacarpals (68, 65, 58, 54 mm) and a carpus of
# about 29 mm put them; the breadth between the outer ones is that of a hand
# 84 mm wide.
FIRST_JOINTS = np.array(
    [
        [20.0, 17.0, -9.0],
        [27.0, 94.0, 0.0],
        [6.0, 96.0, 2.0],
        [-14.0, 89.0, 0.5],
        [-31.0, 79.0, -4.0],
    ]
)
# Half the breadth of each digit at its three joints and near its tip, in mm:
# chosen by eye against photographs.
RADII = np.array(
    [
        [14.5, 11.6, 10.6, 8.2],
        [10.8, 9.5, 8.2, 6.8],
        [11.0, 9.7, 8.5, 7.0],
        [10.4, 9.1, 7.9, 6.6],
        [9.4, 7.9, 6.9, 5.9],
    ]
)


@dataclasses.dataclass(frozen=True)
class Proportions:
    """How one person's hand differs from the mean one; factors about 1.

    Attributes:
        size: of everything; a child's hand is about 0.7.
        breadth: of the palm, across.
        length: of each digit, `[5]`.
        girth: of the fingers and the palm's thickness.
        arm: of the forearm's girth.
    """

    size: float
    breadth: float
    length: np.ndarray
    girth: float
    arm: float


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """A posed hand.

    Attributes:
        joints: float64 `[5, 4, 3]`, mm: each digit's three joints and the
            centre of the ball that ends it.
        dorsal: float64 `[5, 3, 3]`, unit vectors out of the back of each
            phalanx (out of the nail, at the last).
        radii: float64 `[5, 4]`, mm, of the flesh about the joints.
        curled: bool `[5]`, which digits are folded into the palm.
        elbow: float64 `[3]`, mm: where the forearm is headed, 450 mm away.
        proportions: the person's.
    """

    joints: np.ndarray
    dorsal: np.ndarray
    radii: np.ndarray
    curled: np.ndarray
    elbow: np.ndarray
    proportions: Proportions


@dataclasses.dataclass(frozen=True)
class RoundCones:
    """Flesh: the hulls of pairs of balls; all lengths in mm.

    Attributes:
        start, end: float64 `[N, 3]`, the balls' centres.
        start_radius, end_radius: float64 `[N]`.
        digit: int `[N]`, 0..4; 5 is the palm, 6 the forearm, 7 the sleeve.
        phalanx: int `[N]`, 0..2 in a digit, else -1.
        blend: float64 `[N]`, mm over which a cone melts into what was drawn
            before it; 0 leaves an edge, as between two fingers. From
            `ONE_SKIN` on, bones do not show through at all.
        crease: float64 `[N, 3]`, the joint whose skin folds show on the cone.
        dorsal: float64 `[N, 3]`, unit vectors out of the hand's back.
    """

    start: np.ndarray
    end: np.ndarray
    start_radius: np.ndarray
    end_radius: np.ndarray
    digit: np.ndarray
    phalanx: np.ndarray
    blend: np.ndarray
    crease: np.ndarray
    dorsal: np.ndarray


PALM, FOREARM, SLEEVE = 5, 6, 7
ONE_SKIN = 2.5  # mm


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def draw_proportions(rng: np.random.Generator, breadth: float) -> Proportions:
    """One person's hand; `breadth` in 0..1 goes from slender to broad.

    The bones' lengths vary by 5-8 % (the standard deviations of Buryanov &
    Kotiuk); what is common to a person's digits and what is not each take
    about half.
    """
    common = rng.normal(0.0, 0.035)
    length = 1 + common + rng.normal(0.0, 0.025, 5).clip(-0.06, 0.06)
    return Proportions(
        size=rng.uniform(0.88, 1.06),
        breadth=0.90 + 0.20 * breadth,
        length=length,
        girth=0.86 + 0.26 * breadth + rng.uniform(-0.03, 0.03),
        arm=rng.uniform(0.9, 1.12),
    )


def pose(
    rng: np.random.Generator, label: int, proportions: Proportions
) -> Skeleton:
    """A hand of `proportions` in a natural pose of the class `label`."""
    p = proportions
    bones = BONES * p.length[:, None]
    radii = RADII * p.girth
    first = FIRST_JOINTS * np.array([p.breadth, 1.0, 1.0])
    joints = np.zeros((5, 4, 3))
    joints[:, 0] = first
    dorsal = np.zeros((5, 3, 3))
    curled = np.zeros(5, bool)
    if label == ROCK:
        curled[1:] = True
    elif label == SCISSORS:
        curled[RING:] = True
    if curled[LITTLE]:
        # A closing hand arches: its ulnar knuckles sink towards the palm.
        joints[RING, 0, 2] -= 2.0
        joints[LITTLE, 0, 2] -= 5.0

    spread, bend = _fingers(rng, label)
    for digit in range(1, 5):
        forward = np.array([np.sin(spread[digit]), np.cos(spread[digit]), 0.0])
        angle = 0.0
        for k in range(3):
            angle += bend[digit, k]
            along = np.cos(angle) * forward - [0.0, 0.0, np.sin(angle)]
            dorsal[digit, k] = np.sin(angle) * forward + [
                0.0,
                0.0,
                np.cos(angle),
            ]
            length = bones[digit, k]
            if k == 2:
                # The last ball's centre lies its radius short of the tip.
                length -= radii[digit, 3]
            joints[digit, k + 1] = joints[digit, k] + along * length
    fan = spread[INDEX] - spread[LITTLE]
    _thumb(rng, label, fan, joints, dorsal, bones[0], radii)

    side, lift = rng.normal(0.0, [0.16, 0.18]).clip(-0.35, 0.35)
    elbow = 450.0 * _unit(np.array([side, -1.0, lift]))
    return Skeleton(joints * p.size, dorsal, radii * p.size, curled, elbow, p)


def _fingers(
    rng: np.random.Generator, label: int
) -> tuple[np.ndarray, np.ndarray]:
    """Spread `[5]` and bend `[5, 3]` in radians; row 0 is not used.

    Spread is positive towards the thumb, bend towards the palm. A fist's
    angles stay below the greatest active flexion, about 90, 100 and 80
    degrees at the three joints.
    """
    spread = np.zeros(5)
    bend = np.zeros((5, 3))
    # Of an open hand: adjacent fingers, then wide apart; 17, 14 and 32
    # degrees are the widest between neighbours (doi:10.5115/acb.23.310).
    opening = 0.0 if rng.uniform() < 0.4 else rng.beta(1.1, 1.1)
    fan = np.radians([0.0, 15.0, 1.0, -12.0, -30.0])
    closed = np.radians([0.0, -1.5, 0.0, 2.5, 6.0])
    if label == PAPER:
        spread = closed + opening * (fan - closed)
        spread += np.radians(rng.normal(0.0, 1.5, 5)) * opening
        if rng.uniform() < 0.3:
            # Some gaps open, others closed: two fingers look like one.
            gaps = np.diff(closed)[1:]
            gaps = gaps + rng.beta(0.5, 0.5, 3) * (np.diff(fan)[1:] - gaps)
            spread[INDEX], spread[MIDDLE] = -gaps[0], 0.0
            spread[RING], spread[LITTLE] = gaps[1], gaps[1] + gaps[2]
        common = abs(rng.normal(0.0, 1.2))
        bend[:] = np.radians([6.0, 7.0, 4.0]) * common
        uneven = 2.5 if rng.uniform() < 0.6 else [7.0, 4.0, 2.5]
        bend += np.radians(rng.normal(0.0, uneven, (5, 3)))
        bend[:, 0] -= np.radians(rng.uniform(-2.0, 8.0)) * opening
        bend[:, 1:] = np.maximum(bend[:, 1:], 0.0)
        return spread, bend

    # Some fists are hardly closed.
    tight = rng.uniform(-1.2, 1.0)
    fist = np.radians(
        [76.0 + 13.0 * tight, 97.0 + 9.0 * tight, 62.0 + 14.0 * tight]
    )
    uneven = 2.5 if rng.uniform() < 0.5 else 7.0
    bend[:] = fist + np.radians(rng.normal(0.0, uneven, (5, 3)))
    if label == ROCK and rng.uniform() < 0.3:
        # The knuckles stay up and the fingers curl, as before a fist closes.
        bend[:, 0] -= np.radians(rng.uniform(5.0, 40.0))
        bend[:, 0] -= np.radians(rng.uniform(0.0, 12.0, 5))
    bend = np.minimum(bend, np.radians([92.0, 108.0, 80.0]))
    bend[:, 0] += np.radians([0.0, -4.0, 0.0, 3.0, 5.0])
    # Folded fingers lean towards the base of the thumb.
    spread[:] = np.radians([0.0, -2.0, 0.0, 2.0, 5.0])
    if label == SCISSORS:
        # The V: 8 to 46 degrees between the two fingers' axes.
        half = np.radians(rng.uniform(4.0, 23.0))
        lean = np.radians(rng.uniform(-7.0, 7.0))
        spread[INDEX], spread[MIDDLE] = lean + half, lean - half
        common = abs(rng.normal(0.0, 1.0))
        for digit in (INDEX, MIDDLE):
            bend[digit] = np.radians([5.0, 6.0, 3.0]) * common
            bend[digit] += np.radians(rng.normal(0.0, [4.0, 2.0, 2.0]))
            bend[digit, 1:] = np.maximum(bend[digit, 1:], 0.0)
        # The ring finger cannot bend as far as in a fist beside a straight
        # middle finger.
        bend[RING, 0] -= np.radians(rng.uniform(4.0, 18.0))
        bend[LITTLE, 0] -= np.radians(rng.uniform(0.0, 12.0))
    return spread, bend


def _thumb(
    rng: np.random.Generator,
    label: int,
    fan: float,
    joints: np.ndarray,
    dorsal: np.ndarray,
    bones: np.ndarray,
    radii: np.ndarray,
) -> None:
    """Fills row 0 of `joints` and `dorsal`; `fan` is the fingers' spread."""
    root = joints[THUMB, 0]
    lengths = bones - np.array([0.0, 0.0, radii[THUMB, 3]])
    # Many people leave the thumb out of a fist, or of a V; some lay it
    # across an open hand.
    out = {ROCK: 0.35, SCISSORS: 0.45, PAPER: 0.85}[label]
    if rng.uniform() < out:
        low, high = (16.0 if label == PAPER else 24.0), 68.0
        if label == PAPER and fan < 0:
            # Beside closed fingers the thumb is mostly drawn in, too.
            low, high = 6.0, rng.choice((24.0, 60.0), p=(0.65, 0.35))
        angle = np.radians(rng.uniform(low, high))
        # Apart it points away; drawn in it lies along the hand.
        apart = max(angle - np.radians(16.0), 0.0) / np.radians(40.0)
        turns = np.radians([0.0, 16.0 - 14.0 * apart, 10.0 - 16.0 * apart])
        turns[1:] += np.radians(rng.normal(0.0, 4.0, 2))
        dip = rng.uniform(-0.35, -0.05)
        for k in range(3):
            angle -= turns[k]
            along = _unit(
                np.array([np.sin(angle), np.cos(angle), dip * (1 - 0.3 * k)])
            )
            joints[THUMB, k + 1] = joints[THUMB, k] + along * lengths[k]
        outward = np.array([0.65, -0.1, 0.75])
    else:
        target, guess, outward = _thumb_target(rng, label, joints, radii)
        _reach(joints[THUMB], root + guess, target, lengths)
    for k in range(3):
        along = _unit(joints[THUMB, k + 1] - joints[THUMB, k])
        dorsal[THUMB, k] = _unit(outward - along * (along @ outward))


def _thumb_target(
    rng: np.random.Generator,
    label: int,
    joints: np.ndarray,
    radii: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the folded thumb's tip goes, a first guess and its nail's side.

    The tip rests on the middle phalanx of a folded finger, outside it; where
    none is folded, on the palm below the knuckles.
    """
    if label == PAPER:
        digit = (INDEX, MIDDLE, RING)[rng.integers(3)]
        down = np.array([0.0, -rng.uniform(12.0, 26.0), 0.0])
        down[2] = -radii[digit, 0] - 0.8 * radii[THUMB, 3]
        guess = np.array(
            [[0.0, 0.0, 0.0], [20.0, 36.0, -16.0], [12.0, 58.0, -22.0]]
        )
        return joints[digit, 0] + down, guess, np.array([0.5, 0.0, -0.8])
    if label == ROCK:
        digit = MIDDLE if rng.uniform() < 0.7 else INDEX
    else:
        digit = RING if rng.uniform() < 0.75 else LITTLE
    a, b = joints[digit, 1], joints[digit, 2]
    outward = np.cross(_unit(b - a), [1.0, 0.0, 0.0])
    if outward[2] > 0:
        outward = -outward
    where = rng.uniform(0.25, 0.75)
    target = a + where * (b - a)
    target = target + outward * (radii[digit, 1] + 0.8 * radii[THUMB, 3])
    guess = np.array([[0.0, 0.0, 0.0], [20.0, 36.0, -20.0], [6.0, 56.0, -46.0]])
    return target, guess, outward + np.array([0.35, 0.0, 0.0])


def _reach(
    chain: np.ndarray,
    guess: np.ndarray,
    target: np.ndarray,
    lengths: np.ndarray,
) -> None:
    """Bends `chain` `[4, 3]` from its root to `target`, in place.

    FABRIK (Aristidou & Lasenby 2011): straighten backwards from the target,
    then forwards from the root, until both ends hold.
    """
    root = chain[0].copy()
    chain[:3] = guess
    for _ in range(12):
        chain[3] = target
        for k in (2, 1, 0):
            away = _unit(chain[k] - chain[k + 1])
            chain[k] = chain[k + 1] + away * lengths[k]
        chain[0] = root
        for k in range(3):
            along = _unit(chain[k + 1] - chain[k])
            chain[k + 1] = chain[k] + along * lengths[k]


def flesh(skeleton: Skeleton, sleeve_at: float | None) -> RoundCones:
    """Covers the bones: palm and forearm first, then finger by finger.

    Args:
        skeleton: a posed hand.
        sleeve_at: mm from the wrist at which a sleeve begins, or `None`.
    """
    size, girth = skeleton.proportions.size, skeleton.proportions.girth
    joints, radii = skeleton.joints, skeleton.radii
    up = np.array([0.0, 0.0, 1.0])
    rows: list[tuple] = []

    def add(a, b, ra, rb, digit, phalanx, blend, crease=None, dorsal=up):
        crease = np.full(3, 1e4) if crease is None else crease
        rows.append((a, b, ra, rb, digit, phalanx, blend, crease, dorsal))

    _arm(skeleton, sleeve_at, add)

    # The metacarpals, as one slab with soft valleys between the knuckles.
    thick = size * girth
    melt = 9.0 * size
    for digit in range(1, 5):
        knuckle = joints[digit, 0]
        root = np.array([0.42, 0.16, 1.0]) * knuckle
        root[2] -= 3.0 * size
        middle = root + 0.55 * (knuckle - root)
        middle[2] -= 2.0 * size
        r = radii[digit, 0]
        add(root, middle, 13.0 * thick, 11.5 * thick, PALM, -1, melt)
        add(middle, knuckle, 11.5 * thick, r, PALM, -1, melt)
    # Flesh between them, across the palm.
    for y, end, r in (
        (0.84, 0.97, 8.5),
        (0.60, 0.87, 10.0),
        (0.36, 0.74, 11.5),
    ):
        a = joints[INDEX, 0] * [0.84 + 0.1 * y, y, 1.0]
        b = joints[LITTLE, 0] * [end, y, 1.0]
        down = np.array([0.0, 0.0, -4.0 * size])
        add(a + down, b + down, r * thick, r * thick, PALM, -1, melt)
    for digit in (1, 2, 3):
        a, b = joints[digit, 0], joints[digit + 1, 0]
        down = np.array([0.0, 0.0, -3.0 * size])
        add(a + down, b + down, 8.5 * thick, 7.5 * thick, PALM, -1, melt)
    # The pads of the thumb and of the little finger, and the fold of skin
    # between thumb and index. They start slim, inside the wrist.
    thumb = joints[THUMB]
    out = skeleton.dorsal[THUMB, 0]
    heel = 0.45 * (thumb[0] + thumb[1]) + size * np.array([-1.0, 0.0, -3.0])
    start = size * np.array([13.0, 4.0, -5.0])
    add(
        start, heel, 12.5 * thick, 15.5 * thick, PALM, -1, 14 * size, dorsal=out
    )
    end = radii[THUMB, 1] * 1.06
    add(heel, thumb[1], 15.5 * thick, end, PALM, -1, 8 * size, dorsal=out)
    start = size * np.array([-13.0, 4.0, -5.0])
    heel = size * np.array([-23.0, 36.0, -9.0])
    knuckle = joints[LITTLE, 0] + size * np.array([2.5, -12.0, -5.0])
    add(start, heel, 12.0 * thick, 12.5 * thick, PALM, -1, 14.0 * size)
    add(heel, knuckle, 12.5 * thick, 10.0 * thick, PALM, -1, 10.0 * size)
    fold = thumb[0] + 0.66 * (thumb[1] - thumb[0])
    index = 0.62 * joints[INDEX, 0] + [0.0, 0.0, -4.0 * size]
    add(
        fold,
        index,
        9.0 * thick,
        9.0 * thick,
        PALM,
        -1,
        14.0 * size,
    )
    if thumb[3, 2] < -30.0 * size:
        # A thumb across the palm draws the fold along.
        a = 0.1 * thumb[0] + 0.9 * thumb[1]
        b = 0.82 * joints[INDEX, 0] + size * np.array([0.0, 0.0, -6.0])
        add(a, b, 9.5 * thick, 8.5 * thick, PALM, -1, 9.0 * size)
        a = 0.6 * thumb[1] + 0.4 * thumb[2]
        add(a, b, 9.0 * thick, 8.5 * thick, PALM, -1, 9.0 * size)
    # Webs join fingers that go the same way.
    for digit in (1, 2, 3):
        if skeleton.curled[digit] == skeleton.curled[digit + 1]:
            near = joints[digit, 0] + 0.24 * (
                joints[digit, 1] - joints[digit, 0]
            )
            far = joints[digit + 1, 0] + 0.30 * (
                joints[digit + 1, 1] - joints[digit + 1, 0]
            )
            add(
                near,
                far,
                7.0 * thick,
                6.5 * thick,
                PALM,
                -1,
                6.0 * size,
                dorsal=skeleton.dorsal[digit, 0],
            )

    _stuffing(skeleton, add)
    for digit in (4, 3, 2, 1, 0):
        _digit(skeleton, digit, add)
    columns = list(zip(*rows, strict=True))
    return RoundCones(*(np.array(c) for c in columns))


def _stuffing(skeleton: Skeleton, add) -> None:
    """Flesh pressed together inside a fold: no light shows through a fist."""
    size = skeleton.proportions.size
    joints = skeleton.joints
    folded = [d for d in range(1, 5) if skeleton.curled[d]]
    if not folded:
        return
    inner = [joints[d].mean(0) for d in folded]
    r = 13.5 * size * skeleton.proportions.girth
    inner[0] = inner[0] + [3.0 * size, 0.0, 0.0]
    add(inner[0], inner[-1], r, 0.9 * r, PALM, -1, 5.0 * size)
    tips = [joints[d, 3] + [0.0, -5.0 * size, 0.0] for d in folded]
    add(tips[0], tips[-1], 0.8 * r, 0.7 * r, PALM, -1, 5.0 * size)
    if INDEX in folded and joints[THUMB, 3, 2] < -30.0 * size:
        # The thumb's ball swells against the index finger.
        a = joints[THUMB, 1] + 0.3 * (joints[THUMB, 2] - joints[THUMB, 1])
        b = 0.55 * joints[INDEX, 0] + 0.45 * joints[INDEX, 1]
        add(a, b, 0.85 * r, 0.75 * r, PALM, -1, 8.0 * size)
        add(a, inner[0], 0.9 * r, r, PALM, -1, 8.0 * size)


def _arm(skeleton: Skeleton, sleeve_at: float | None, add) -> None:
    """Radius and ulna side by side: a wrist is wider than it is thick."""
    size = skeleton.proportions.size
    arm = size * skeleton.proportions.arm
    along = _unit(skeleton.elbow)
    across = _unit(np.cross(along, [0.0, 0.0, -1.0]))
    wrist = np.array([0.0, 14.0, -3.0]) * size
    melt = 14.0 * size
    for side in (-1.0, 1.0):
        a = wrist + side * across * 11.0 * arm
        b = wrist + along * 75.0 * size + side * across * 9.0 * arm
        c = wrist + along * 230.0 * size + side * across * 11.0 * arm
        d = skeleton.elbow + side * across * 12.0 * arm
        add(a, b, 15.5 * arm, 19.5 * arm, FOREARM, -1, melt)
        add(b, c, 19.5 * arm, 31.0 * arm, FOREARM, -1, melt)
        add(c, d, 31.0 * arm, 36.0 * arm, FOREARM, -1, melt)
    if sleeve_at is None:
        return
    a = wrist + along * sleeve_at * size
    r = 35.0 + 0.07 * sleeve_at
    add(a, skeleton.elbow, r * arm, 66.0 * arm, SLEEVE, -1, 0.0)


def _digit(skeleton: Skeleton, digit: int, add) -> None:
    """Two cones a phalanx, a little narrower between the joints."""
    joints, radii = skeleton.joints[digit], skeleton.radii[digit]
    size = skeleton.proportions.size
    for k in range(3):
        if digit == THUMB and k == 0:
            continue  # it is part of the palm
        a, b = joints[k], joints[k + 1]
        ra, rb = radii[k], radii[k + 1]
        if digit == THUMB and k == 1:
            ra *= 1.04
        # The fingertip stays full up to its end, the shafts are slimmer.
        at, waist = (0.5, 1.03) if k == 2 else (0.5, 0.955)
        middle = a + at * (b - a)
        rm = (ra + at * (rb - ra)) * waist
        base = k == 0 or (digit == THUMB and k == 1)
        # Knuckles of a fist stay apart, an open hand's fingers share skin.
        blend = (2.0 if skeleton.curled[digit] else 5.0) * size
        if digit == THUMB:
            blend = 8.0 * size
        if not base:
            blend = 0.0
        dorsal = skeleton.dorsal[digit, k]
        crease = None if base and digit != THUMB else a
        add(a, middle, ra, rm, digit, k, blend, crease, dorsal)
        crease = b if k < 2 else None
        add(middle, b, rm, rb, digit, k, 0.0, crease, dorsal)
