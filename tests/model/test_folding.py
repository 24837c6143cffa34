import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from framework.errors import UserError
from framework.model.affine import RandomAffine
from framework.model.backbones import course_cnn, tiny_cnn
from framework.model.backbones.backbone import leaves
from framework.model.classifier import classifier
from framework.model.folding import fold, foldable
from framework.model.heads import softmax_head
from framework.registry import BACKBONES

Norm = kl.BatchNormalization


def trained(model):
    """Gives normalisations statistics and coefficients that do something."""
    rng = np.random.default_rng(0)
    for layer in leaves(model):
        for variable in layer.weights:
            low_high = {
                "bias": (-0.3, 0.3),
                "beta": (-0.3, 0.3),
                "gamma": (0.5, 1.5),
                "moving_mean": (-0.3, 0.3),
                "moving_variance": (0.3, 2.0),
            }.get(variable.name)
            if low_high:
                variable.assign(rng.uniform(*low_high, variable.shape))
    return model


def norms(model):
    return [x for x in leaves(model) if isinstance(x, Norm)]


def inputs_for(model, batch=4):
    rng = np.random.default_rng(1)
    given = []
    for x in model.inputs:
        shape = (batch, *x.shape[1:])
        if x.dtype == "uint8":
            given.append(rng.integers(0, 256, shape, np.uint8))
        else:
            given.append(rng.normal(size=shape).astype(np.float32))
    return given if len(given) > 1 else given[0]


def assert_same(model, folded, tolerance=1e-5, **how):
    """`how` the folded model is called; the other one for inference."""
    x = inputs_for(model)
    expected = model(x, training=False)
    received = folded(x, **how)
    tf.nest.assert_same_structure(expected, received)
    for a, b in zip(
        tf.nest.flatten(expected), tf.nest.flatten(received), strict=True
    ):
        assert a.dtype == b.dtype
        a, b = (np.asarray(tf.cast(t, tf.float64)) for t in (a, b))
        assert np.isfinite(a).all()
        assert np.abs(a).max() > 0
        np.testing.assert_allclose(
            b, a, rtol=0, atol=tolerance * np.abs(a).max()
        )


# How many normalisations there are and how many are folded. DenseNet and
# ResNetV2 normalise before they convolve, as a rule.
COUNTS = {
    "course_cnn": (64, 0, 0),
    "tiny_cnn": (32, 2, 2),
    "efficientnet_lite0": (64, 49, 49),
    "keras.MobileNetV2": (32, 52, 52),
    "keras.Xception": (71, 40, 40),
    "keras.EfficientNetB0": (32, 49, 49),
    "keras.ResNet50V2": (32, 49, 32),
    "keras.DenseNet121": (32, 121, 59),
}


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("tiny_cnn", "efficientnet_lite0", "keras.ResNet50V2")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in COUNTS
    ],
)
def test_backbones_compute_the_same(name):
    size, before, folded_away = COUNTS[name]
    model = BACKBONES[name](image_size=size, weights=None).model
    trained(model)
    folded = fold(model)
    # With these weights errors of rounding grow more in this one, folded or
    # not: by as much either differs from what float64 gives.
    assert_same(model, folded, 3e-5 if name == "efficientnet_lite0" else 1e-5)
    assert len(norms(model)) == before
    assert len(foldable(model)) == folded_away
    assert len(norms(folded)) == before - folded_away
    assert foldable(folded) == []
    assert folded.name == model.name


@pytest.mark.parametrize(
    "name",
    [
        "keras.MobileNetV2",
        pytest.param("efficientnet_lite0", marks=pytest.mark.slow),
    ],
)
def test_nothing_but_rounding_differs(name):
    keras.config.set_dtype_policy("float64")
    try:
        size = COUNTS[name][0]
        model = BACKBONES[name](image_size=size, weights=None).model
    finally:
        keras.config.set_dtype_policy("float32")
    trained(model)
    assert_same(model, fold(model), 1e-12)


def augmented(freeze="none", dropout=0.5, **kwargs):
    def head(num_classes):
        return softmax_head(num_classes, hidden=[8], dropout=dropout)

    augmentation = (
        kl.RandomFlip("horizontal"),
        kl.RandomRotation(0.2),
        kl.RandomBrightness(0.5),
        RandomAffine(rotation_factor=0.1),
        kl.RandomCrop(32, 32),
    )
    built = classifier(
        3, tiny_cnn, head, freeze=freeze, augmentation=augmentation, **kwargs
    )
    return trained(built.model)


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("freeze", ["none", "all", "relu1"])
def test_classifiers_compute_the_same(freeze, fuse, tmp_path):
    model = augmented(freeze, fuse=fuse)
    assert fuse == any(isinstance(x, kl.Pipeline) for x in model.layers)
    where = ["tiny_cnn_lower", "tiny_cnn_upper"]
    if freeze != "relu1":
        where = ["tiny_cnn"] * 2
    assert foldable(model) == [f"{where[0]}/bn1", f"{where[1]}/bn2"]
    folded = fold(model)
    assert norms(folded) == []
    assert_same(model, folded)
    x = inputs_for(model)
    np.testing.assert_allclose(
        folded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5
    )
    # None of what is random is left, of the framework's own layers neither:
    # the file loads in plain Keras.
    names = [type(layer).__name__ for layer in leaves(folded)]
    assert [n for n in names if "Random" in n] == ["RandomCrop"]
    assert not {"Pipeline", "Dropout", "RandomAffine"} & set(names)
    folded.save(tmp_path / "folded.keras")
    again = keras.saving.load_model(tmp_path / "folded.keras")
    np.testing.assert_array_equal(again(x), folded(x))
    assert_same(model, again)


def test_a_bare_call_is_not_random():
    model = augmented()
    x = inputs_for(model)
    assert len({np.asarray(model(x)).tobytes() for _ in range(20)}) > 1
    folded = fold(model)
    assert len({np.asarray(folded(x)).tobytes() for _ in range(20)}) == 1
    traced = tf.function(folded)
    assert len({np.asarray(traced(x)).tobytes() for _ in range(20)}) == 1


@keras.saving.register_keras_serializable("test_folding")
class Shaky(kl.Layer):
    """Takes no `training`, and so does not pass it on."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = kl.RandomFlip()

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, x):
        return self.inner(x)


# What can't be left out is told that this is inference.
@pytest.mark.parametrize(
    "make",
    [
        lambda: Shaky(),
        lambda: keras.Sequential([Shaky()]),
        lambda: kl.Pipeline([kl.RandomCrop(8, 8), kl.RandomFlip()]),
        lambda: kl.RandomFlip(dtype="uint8"),
    ],
)
def test_nothing_else_is_random_in_a_bare_call(make, tmp_path):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, make()(inputs))
    folded = fold(model)
    x = inputs_for(model, batch=16)
    expected = np.asarray(model(x, training=False))
    assert any((np.asarray(model(x)) != expected).any() for _ in range(5))
    folded.save(tmp_path / "m.keras")
    for one in (folded, keras.saving.load_model(tmp_path / "m.keras")):
        for _ in range(5):
            np.testing.assert_array_equal(one(x), expected)


# `training=True` that a part was called with yields to that of the whole.
@pytest.mark.parametrize(
    "make",
    [
        lambda x: kl.Dropout(0.5)(x, training=True),
        lambda x: Norm()(kl.Conv2D(3, 3)(x), training=True),
        lambda x: Norm()(x, training=True),
        lambda x: tiny_cnn().model(x, training=True),
    ],
)
def test_it_is_the_model_in_inference(make):
    inputs = keras.Input((32, 32, 3))
    model = trained(keras.Model(inputs, make(inputs)))
    folded = fold(model)
    assert_same(model, folded)
    assert_same(model, folded)


def test_the_model_stays_as_it_is():
    model = augmented("relu1")
    weights = [w.copy() for w in model.get_weights()]
    config = model.get_config()
    everything = list(model._flatten_layers())
    nodes = [len(layer._inbound_nodes) for layer in everything]
    called = [layer for layer in everything if layer._inbound_nodes]
    outputs = [layer.output for layer in called]
    folded = fold(model)
    assert foldable(model)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert model.get_config() == config
    assert list(model._flatten_layers()) == everything
    assert [len(layer._inbound_nodes) for layer in everything] == nodes
    assert all(
        layer.output is output
        for layer, output in zip(called, outputs, strict=True)
    )
    assert not {id(x) for x in everything} & {
        id(x) for x in folded._flatten_layers()
    }
    expected = np.asarray(folded(inputs_for(model)))
    for variable in model.variables:
        variable.assign(variable + 1)
    np.testing.assert_array_equal(folded(inputs_for(model)), expected)


def test_a_compiled_model_is_folded_without_its_optimizer():
    model = augmented()
    model.compile("adam", "sparse_categorical_crossentropy")
    folded = fold(model)
    assert not folded.compiled
    assert len(folded.variables) < len(model.variables)


SHAPE = (8, 8, 4)


# Each layer before a normalisation, and what the normalisation is told.
@pytest.mark.parametrize("kwargs", [{}, {"scale": False}, {"center": False}])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda **k: kl.Conv2D(6, 3, strides=2, padding="same", **k),
        lambda **k: kl.Conv2D(6, 3, groups=2, dilation_rate=2, **k),
        lambda **k: kl.DepthwiseConv2D(3, **k),
        lambda **k: kl.DepthwiseConv2D(3, depth_multiplier=3, **k),
        lambda **k: kl.SeparableConv2D(5, 3, depth_multiplier=2, **k),
        lambda **k: kl.Dense(7, **k),
    ],
)
def test_each_kind_of_layer_is_folded(make, use_bias, kwargs):
    x = inputs = keras.Input(SHAPE)
    x = make(use_bias=use_bias)(x)
    # A large epsilon, so that it matters.
    x = Norm(epsilon=0.1, axis=3, **kwargs)(x)
    model = trained(keras.Model(inputs, kl.ReLU()(x)))
    folded = fold(model)
    assert norms(folded) == []
    assert_same(model, folded, 1e-6)


def test_vectors_and_other_axes_are_folded():
    x = inputs = keras.Input((8,))
    x = Norm(axis=1)(kl.Dense(5)(x))
    model = trained(keras.Model(inputs, x))
    assert norms(fold(model)) == []
    assert_same(model, fold(model), 1e-6)
    x = inputs = keras.Input((4, 8, 8))
    x = kl.Conv2D(5, 3, data_format="channels_first")(x)
    model = trained(keras.Model(inputs, Norm(axis=1)(x)))
    assert norms(fold(model)) == []
    assert_same(model, fold(model), 1e-6)


@keras.saving.register_keras_serializable("test_folding")
class OtherConv(kl.Conv2D):
    def call(self, x):
        return super().call(x) ** 2


@keras.saving.register_keras_serializable("test_folding")
class OtherNorm(kl.BatchNormalization):
    def call(self, x, training=None, mask=None):
        return super().call(x, training=training) ** 2


@keras.saving.register_keras_serializable("test_folding")
class OtherModel(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.norm = kl.Conv2D(4, 3), Norm()

    def call(self, x):
        return self.norm(self.conv(x)) ** 2


@keras.saving.register_keras_serializable("test_folding")
class OtherFunctional(keras.Model):
    """Has a graph, and computes something else."""

    def call(self, x, training=None, mask=None):
        return super().call(x, training=training) ** 2


def conv(x, **kwargs):
    return kl.Conv2D(4, 3, padding="same", **kwargs)(x)


def two_users(x):
    x = conv(x)
    return kl.Add()([Norm()(x), x])


def also_an_output(x):
    x = conv(x)
    return [Norm()(x), x]


def two_norms(x):
    x = conv(x)
    return [Norm()(x), Norm()(x)]


def shared_conv(x):
    shared = kl.Conv2D(4, 3, padding="same")
    return Norm()(shared(shared(x)))


def shared_conv_apart(x):
    shared = kl.Conv2D(4, 3, padding="same")
    return [Norm()(shared(x)), shared(x + 1)]


def shared_norm(x):
    shared = Norm()
    return shared(conv(shared(conv(x))))


def across_models(x):
    inner = keras.Input(SHAPE)
    return Norm()(keras.Model(inner, conv(inner))(x))


def other_functional(x):
    inner = keras.Input(SHAPE)
    return OtherFunctional(inner, Norm()(conv(inner)))(x)


def with_lora(x):
    layer = kl.Conv2D(4, 3, lora_rank=2)
    return Norm()(layer(x))


def other_axis(x):
    # 8 rows and 8 channels: shapes would go together.
    return Norm(axis=1)(kl.Conv2D(8, 3, padding="same")(x))


def other_axis_first(x):
    x = kl.Conv2D(8, 3, padding="same", data_format="channels_first")(x)
    return Norm(axis=3)(x)


def other_dtype(x):
    return Norm(dtype="float32")(conv(x, dtype="mixed_bfloat16"))


def sixteen_bits(x):
    return Norm(dtype="bfloat16")(conv(x, dtype="bfloat16"))


@pytest.mark.parametrize(
    "build",
    [
        lambda x: Norm()(x),
        lambda x: Norm()(conv(x, activation="relu")),
        lambda x: Norm()(kl.ReLU()(conv(x))),
        lambda x: Norm()(kl.Add()([conv(x), x])),
        lambda x: Norm()(kl.Concatenate()([conv(x), x])),
        lambda x: Norm()(kl.ZeroPadding2D()(conv(x))),
        lambda x: Norm()(conv(x) * 2.0),
        lambda x: conv(kl.ReLU()(Norm()(x))),
        lambda x: conv(Norm()(x)),
        lambda x: kl.LayerNormalization()(conv(x)),
        lambda x: Norm()(OtherConv(4, 3)(x)),
        lambda x: OtherNorm()(conv(x)),
        lambda x: OtherModel()(x),
        lambda x: Norm()(kl.Conv2DTranspose(4, 3)(x)),
        lambda x: kl.Lambda(lambda y: y * 2)(conv(x)),
        two_users,
        two_norms,
        also_an_output,
        shared_conv,
        shared_conv_apart,
        shared_norm,
        across_models,
        other_functional,
        with_lora,
        other_axis,
        other_axis_first,
        other_dtype,
        sixteen_bits,
    ],
)
def test_what_must_not_be_folded_is_left(build):
    inputs = keras.Input(SHAPE)
    model = trained(keras.Model(inputs, build(inputs)))
    if hasattr(model.layers[1], "lora_kernel_b"):
        kernel = model.layers[1].lora_kernel_b
        kernel.assign(np.random.default_rng(0).normal(size=kernel.shape))
    folded = fold(model)
    assert foldable(model) == []
    assert len(norms(folded)) == len(norms(model))
    assert_same(model, folded, 1e-6)


def test_a_layer_that_two_models_share_is_folded_in_each():
    shared = kl.Conv2D(4, 3, padding="same")
    inner = keras.Input(SHAPE)
    parts = [keras.Model(inner, Norm()(shared(inner))) for _ in range(2)]
    parts.append(keras.Model(inner, shared(inner)))
    x = inputs = keras.Input(SHAPE)
    for part in parts:
        x = part(x)
    model = trained(keras.Model(inputs, x))
    folded = fold(model)
    assert len(foldable(model)) == 2
    assert norms(folded) == []
    assert_same(model, folded)


def test_a_model_called_twice_stays_one():
    inner = keras.Input(SHAPE)
    part = keras.Model(inner, Norm()(conv(inner)))
    a, b = keras.Input(SHAPE), keras.Input(SHAPE)
    model = trained(keras.Model([a, b], [part(a), kl.Add()([part(b), a])]))
    folded = fold(model)
    assert len(foldable(model)) == 1
    assert len(folded.weights) == 2
    assert_same(model, folded)


def test_sequential_models_are_folded(tmp_path):
    model = keras.Sequential(
        [
            keras.Input(SHAPE, name="in"),
            keras.Sequential([kl.RandomFlip(), kl.RandomZoom(0.2)]),
            kl.Normalization(),
            keras.Sequential([kl.Conv2D(5, 3), Norm(name="a"), kl.ReLU()]),
            kl.Dropout(0.5),
            kl.Dense(3, use_bias=False),
            Norm(name="b"),
        ],
    )
    model.layers[1].adapt(5 + 2 * inputs_for(model))
    trained(model)
    folded = fold(model)
    assert [n.split("/")[-1] for n in foldable(model)] == ["b", "a"]
    assert norms(folded) == []
    assert [type(x).__name__ for x in folded.layers] == [
        "InputLayer",
        "Normalization",
        "Functional",
        "Dense",
    ]
    assert_same(model, folded)
    folded.save(tmp_path / "m.keras")
    assert_same(model, keras.saving.load_model(tmp_path / "m.keras"))


def test_structures_of_outputs_stay():
    inputs = keras.Input(SHAPE, name="in")
    outputs = {"b": Norm()(conv(inputs)), "a": kl.Dropout(0.5)(inputs)}
    model = trained(keras.Model({"in": inputs}, outputs))
    folded = fold(model)
    assert norms(folded) == []
    x = {"in": inputs_for(model)}
    expected, received = model(x, training=False), folded(x)
    assert set(received) == {"a", "b"}
    np.testing.assert_allclose(received["b"], expected["b"], atol=1e-5)
    np.testing.assert_array_equal(received["a"], x["in"])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_its_dtypes(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = augmented()
        folded = fold(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert norms(folded) == []
    assert not any(
        type(x).__name__ in ("RandomFlip", "Dropout") for x in leaves(folded)
    )
    kernel = folded.get_layer("tiny_cnn").get_layer("conv1").kernel
    assert kernel.dtype == "float32"
    # As many bits as there are, for what is rounded in another order.
    assert_same(model, folded, 0.02 if "bfloat16" in policy else 0.003)


@pytest.mark.parametrize("layer", [kl.RandomFlip, kl.RandomBrightness])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_what_augmentation_casts_is_cast(layer, dtype):
    inputs = keras.Input(SHAPE, dtype=dtype)
    arguments = [0.2] if layer is kl.RandomBrightness else []
    model = keras.Model(inputs, kl.Rescaling(0.1)(layer(*arguments)(inputs)))
    folded = fold(model)
    assert_same(model, folded, 0)
    kinds = [type(x) for x in folded.layers]
    assert (layer in kinds) == (dtype == "uint8")
    assert (kl.Identity in kinds) == (dtype == "float16")


def test_what_keras_can_not_clone_is_left_out():
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, kl.ReLU()(kl.RandomShear(0.2)(inputs)))
    assert_same(model, fold(model), 0)


def test_several_casts_are_kept():
    inputs = keras.Input(SHAPE)
    for layers in (
        [kl.RandomFlip(dtype="float16"), kl.RandomFlip(dtype="float32")],
        [kl.RandomFlip(dtype="uint8")],
    ):
        model = keras.Model(inputs, kl.Pipeline(layers)(inputs))
        folded = fold(model)
        assert [type(x) for x in folded.layers[1:]] == [kl.Pipeline]
        assert_same(model, folded, 0)


def test_pictures_with_labels_keep_their_layer():
    shapes = {"images": SHAPE, "labels": (1,)}
    inputs = {k: keras.Input(shape, name=k) for k, shape in shapes.items()}
    model = keras.Model(inputs, kl.RandomFlip()(inputs))
    folded = fold(model)
    assert [type(x) for x in folded.layers].count(kl.RandomFlip) == 1
    x = {"images": np.ones((2, *SHAPE)), "labels": np.ones((2, 1))}
    tf.nest.map_structure(
        np.testing.assert_array_equal, folded(x), model(x, training=False)
    )


def test_float64_stays_float64():
    inputs = keras.Input(SHAPE, dtype="float64")
    x = Norm(dtype="float64")(conv(inputs, dtype="float64"))
    model = trained(keras.Model(inputs, x))
    folded = fold(model)
    assert norms(folded) == []
    assert_same(model, folded, 1e-14)


@pytest.mark.parametrize(
    "make",
    [
        lambda: OtherModel(),
        lambda: OtherFunctional((x := keras.Input(SHAPE)), Norm()(conv(x))),
        lambda: keras.Sequential([kl.Dense(3)]),
        lambda: kl.Dense(3),
    ],
)
def test_other_models_are_refused(make):
    for function in (fold, foldable):
        with pytest.raises(UserError, match="expected a functional model"):
            function(make())


def test_without_normalisation_it_is_a_copy():
    model = course_cnn(64).model
    folded = fold(model)
    assert_same(model, folded, 0)
