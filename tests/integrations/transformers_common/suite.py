"""The common tests of transformers, from its own sources, on STU models. `test_transformers_common` runs this file.

Sources are a folder with ``tests`` on the path. A source distribution has the tests of models, configurations and training; a
checkout has those of generation, too.
"""

import importlib
import sys
import types
import unittest
from unittest.mock import patch

import torch
from skips import ours
from transformers.models.auto import modeling_auto

from torchstu.integrations.transformers import STUConfig, STUForCausalLM, STUForSequenceClassification, STUModel
from torchstu.integrations.transformers.cache import MixerState

for mapping, name in (
    (modeling_auto.MODEL_MAPPING_NAMES, "STUModel"),
    (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "STUForCausalLM"),
    (modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, "STUForSequenceClassification"),
):
    mapping["stu"] = name


def provide(name, **values):
    """A module in the place of one of the sources."""
    module = sys.modules[name] = types.ModuleType(name)
    vars(module).update(values)
    parent, _, last = name.rpartition(".")
    if parent not in sys.modules:
        try:
            importlib.import_module(parent)
        except ModuleNotFoundError:
            provide(parent)
    setattr(sys.modules[parent], last, module)


# Of these modules a model's tests need one name each, and the rest of them needs packages and files that are not here.
COMMON_VALUES = {
    "return_dict": False, "output_hidden_states": True, "output_attentions": True, "dtype": "float16",
    "chunk_size_feed_forward": 5, "architectures": ["BertModel"], "id2label": {0: "label"}, "label2id": {"label": "0"},
    "problem_type": "regression",
}  # fmt: skip
Exports = type("ExportTesterMixin", (), {})  # exporting is checked in test_transformers_ecosystem.py
provide("tests.utils.test_configuration_utils", config_common_kwargs=COMMON_VALUES)
provide("tests.exporters.test_export", ExportTesterMixin=Exports, ExportGenerateTesterMixin=type("Generate", (Exports,), {}))
try:
    importlib.import_module("tests.generation.test_utils")
except ModuleNotFoundError as error:
    if not error.name.startswith("tests.generation"):
        raise
    provide("tests.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))

from tests.generation.test_utils import GenerationTesterMixin  # noqa: E402
from tests.test_configuration_common import ConfigTester  # noqa: E402
from tests.test_modeling_common import ModelTesterMixin, ids_tensor  # noqa: E402
from tests.test_training_mixin import TrainingTesterMixin  # noqa: E402

WINDOW = 5  # shorter than the inputs of 7 tokens


class Sizes:
    """Sizes of the models, and their inputs."""

    batch_size, seq_length, num_labels = 13, 7, 3
    hidden_size, num_hidden_layers, num_attention_heads, vocab_size = 32, 2, 2, 99
    is_training = True
    causal_lm_class, base_model_class = STUForCausalLM, STUModel

    def __init__(self, mixers):
        self.mixers = mixers

    def get_config(self):
        return STUConfig(
            vocab_size=99, hidden_size=32, intermediate_size=32, num_filters=4, filter_length=16, num_hidden_layers=2,
            num_attention_heads=2, sliding_window=WINDOW, max_position_embeddings=512, pad_token_id=0, bos_token_id=1,
            eos_token_id=2, tie_word_embeddings=False, hidden_dropout=0.1, mixers=self.mixers,
        )  # fmt: skip

    def prepare_config_and_inputs_for_common(self):
        ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.tril(torch.ones_like(ids))}


class Common(ModelTesterMixin, GenerationTesterMixin, TrainingTesterMixin):
    """All of them, with what the sources ask models with caches of their own to say: what is in one."""

    all_model_classes = (STUModel, STUForCausalLM, STUForSequenceClassification)
    model_tester = None
    test_can_init_all_missing_weights_before_2023 = True  # not judged by the age of the file
    has_attentions = False
    mixers = "TensordotSTU"

    def setUp(self):
        reason = ours(type(self).__name__, self._testMethodName)
        if reason:
            self.skipTest(reason)
        if self._testMethodName == "test_left_padding_compatibility":
            self.has_attentions = True  # STU layers know padding, too
        self.model_tester = Sizes(self.mixers)
        self.config_tester = ConfigTester(self, config_class=STUConfig, hidden_size=36)

    def test_config(self):
        self.config_tester.run_common_tests()

    def attention_mask_padding_matches_padding_free_with_position_ids(self, *args, **kwargs):
        with patch.object(self, "has_attentions", True), patch.object(STUForCausalLM, "_is_stateful", False):  # and packing
            super().attention_mask_padding_matches_padding_free_with_position_ids(*args, **kwargs)

    def _check_past_key_values_for_generate(self, batch_size, past_key_values, seq_length, config):
        assert len(past_key_values) == config.num_hidden_layers
        assert past_key_values.get_seq_length() == seq_length
        for layer in past_key_values.layers:
            if isinstance(layer, MixerState):
                assert {len(part) for part in layer.state} == {batch_size}
            else:
                assert layer.keys.shape == (batch_size, 2, min(seq_length, WINDOW - 1), 16)

    def _check_caches_are_equal(self, cache1, cache2):
        assert len(cache1) == len(cache2)
        for one, other in zip(cache1.layers, cache2.layers, strict=True):
            parts = [x.state if isinstance(x, MixerState) else (x.keys, x.values) for x in (one, other)]
            torch.testing.assert_close(tuple(parts[0]), tuple(parts[1]))


class TensordotTest(Common, unittest.TestCase):
    """Tensordot STU layers alone."""


class FullTest(Common, unittest.TestCase):
    """STU and AR-STU layers in turns."""

    mixers = ("STU", "AR-STU")


class HybridTest(Common, unittest.TestCase):
    """Tensordot STU layers and attention over a window, in turns."""

    mixers = ("TensordotSTU", "sliding_attention")
    has_attentions = True

    def test_attention_outputs(self):
        self.model_tester.num_hidden_layers = 1  # one layer of two is attention
        super().test_attention_outputs()

    def _check_attentions_for_generate(
        self, batch_size, attentions, prompt_length, output_length, config, decoder_past_key_values
    ):
        assert len(attentions) == output_length - prompt_length
        for step, (found,) in enumerate(attentions):
            seen = prompt_length + step
            rows, keys = (1, min(seen, WINDOW)) if decoder_past_key_values and step else (seen, seen)
            assert found.shape == (batch_size, 2, rows, keys)
