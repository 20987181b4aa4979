"""What a model's own text tells of its matrices, with real models of transformers."""

import numpy as np
import pytest

pytestmark = pytest.mark.journey


@pytest.fixture(params=["LlamaForCausalLM", "GPT2LMHeadModel"])
def model(request, random_checkpoint):
    from slmops.build.reference import load_reference  # noqa: PLC0415 - torch

    said = {"intermediate_size": 1024} if request.param == "GPT2LMHeadModel" else {}
    return load_reference(random_checkpoint(request.param, num_hidden_layers=2, **said), lambda _share: None)


def test_the_same_seed_writes_the_same_text(model):
    from slmops.build.study_matrices import write_texts  # noqa: PLC0415 - torch

    first, second, other = (write_texts(model, 1, (3, 12), seed) for seed in (0, 0, 1))
    assert first.shape == (3, 12)
    assert (first[:, 0] == 1).all()
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert len(set(write_texts(model, None, (8, 1), 0)[:, 0])) > 1


def test_inputs_are_those_that_the_layers_multiply(model):
    from slmops.build import study_matrices as study  # noqa: PLC0415 - torch

    layers, texts = study.layers_of(model), study.write_texts(model, 1, (6, 10), 0)
    inputs = study.inputs_of(model, layers, texts, lambda _share: None)
    assert inputs.keys() == layers.keys()
    for name, layer in layers.items():
        assert inputs[name].shape == (layer.read().shape[1],) * 2
        assert np.allclose(inputs[name], inputs[name].T, rtol=1e-3, atol=1e-4)
    queries, keys = (
        f"model.layers.0.self_attn.{letter}_proj.weight" if "Llama" in type(model).__name__ else ""
        for letter in "qk"
    )
    if queries:
        assert inputs[queries] is inputs[keys]


def test_a_layer_that_is_replaced_by_itself_loses_nothing_and_the_model_leaves_as_it_came(model):
    from slmops.build import study_matrices as study  # noqa: PLC0415 - torch

    layers, texts = study.layers_of(model), study.write_texts(model, 1, (2, 10), 0)
    before = study.logits_of(model, texts)
    same = study.losses_of(model, layers, lambda name: layers[name].read(), texts, lambda _share: None)
    assert max(same.values()) < 1e-9
    worse = study.losses_of(model, layers, lambda name: 0 * layers[name].read(), texts, lambda _share: None)
    assert min(worse.values()) > 1e-6
    assert np.array_equal(study.logits_of(model, texts), before)
