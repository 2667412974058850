"""What the common tests skip on STU models, and why; docs/language.md says the same."""

from fnmatch import fnmatchcase

OURS = {
    "a state cannot go back; the test itself would pass, but runs nothing": [
        "test_prompt_lookup_decoding_matches_greedy_search"
    ],
    "runs nothing, its two cases are tests of their own": ["test_generate_from_inputs_embeds"],
}
"""Skipped by us."""

OURS_NO_ATTENTION = {"no attention, so no rotary positions to scale": ["test_model_rope_scaling_from_config_*"]}
"""Skipped by us for models without attention."""

NOT_FOR_US = {
    "a state cannot go back, so tokens cannot be taken back": [
        "test_assisted_decoding_*", "test_generate_with_mtp",
    ],
    "the cache is of one size already; there is no static kind": [
        "test_generate_with_static_cache", "test_generate_from_inputs_embeds_with_static_cache",
        "test_generate_compilation_all_outputs", "test_generate_compile_model_forward_fullgraph",
        "test_static_cache_no_recompile_with_smaller_length",
    ],
    "a state knows no masks of pairs": ["test_custom_4d_attention_mask"],
    "one model, with no parts that are models": [
        "test_attn_implementation_composite_models", "test_sdpa_can_dispatch_composite_models",
        "test_can_set_attention_dynamically_composite_model", "test_internal_model_config_and_subconfig_are_same",
    ],
    "no experts": [
        "test_eager_matches_batched_and_grouped_inference_*", "test_moe_models_record_router_logits",
        "test_output_router_logits_from_config",
    ],
    "no encoder, no images, no learned positions, rotary positions over whole heads": [
        "test_encoder_decoder_loss_no_double_shift", "test_vision_axial_rope", "test_resize_position_vector_embeddings",
        "test_model_rope_with_partial_rotation",
    ],
    "no weights of older formats": ["test_can_load_from_already_mapped_keys", "test_reverse_loading_mapping"],
    "no weights that stay in float32": ["test_keep_in_fp32_modules", "test_keep_in_fp32_modules_exist"],
    "no plan for tensor parallelism": ["test_tied_head_has_a_tp_plan_entry", "test_tp_plan_matches_params"],
    "windows are chosen by layer, not by use_sliding_window": ["test_sliding_window_mask"],
    "the library's own classifier does not say that it takes output_attentions": [
        "test_eager_matches_sdpa_inference_24_fp32_pad_left_output_attentions",
    ],
}  # fmt: skip
"""Skipped by the tests themselves, whatever the machine."""

NO_ATTENTION = [
    "test_attention_outputs", "test_eager_matches_sdpa_inference_*", "test_sdpa_can_dispatch_non_composite_models",
    "test_model_rope_scaling_frequencies",
]  # fmt: skip
"""Skipped by the tests themselves for models without attention."""

MACHINE = {
    "an accelerator, or several": [
        "test_can_load_with_device_context_manager", "test_can_load_with_global_device_set", "test_cpu_offload",
        "test_disk_offload_*", "test_flex_attention_with_grads", "test_sdpa_can_compile_dynamic",
        "test_sdpa_can_dispatch_on_flash", "test_torch_compile_for_training", "test_model_parallel*",
    ],
    "flash attention, or kernels from the hub": [
        "test_eager_matches_fa?_generate", "test_flash_attention_*", "test_flash_attn_*",
        "test_kernels_can_load_without_crashing",
    ],
    "DeepSpeed": ["test_resize_*_with_deepspeed*"],
    "optimum-quanto": ["test_generate_with_quant_cache"],
}  # fmt: skip
"""Skipped where the machine or the environment lacks what they need."""

WITH_ATTENTION = "HybridTest"


def names(table):
    """All patterns of a table."""
    return [name for patterns in table.values() for name in patterns]


def ours(test_class, test):
    """Why we skip a test; None: we do not."""
    table = OURS if test_class == WITH_ATTENTION else OURS | OURS_NO_ATTENTION
    return next((reason for reason, patterns in table.items() if matches(test, patterns)), None)


def matches(test, patterns):
    """Whether a test is one of those."""
    return any(fnmatchcase(test, pattern) for pattern in patterns)


def must_skip(test_class, test):
    """Whether a test is documented as skipped whatever the machine."""
    without = [] if test_class == WITH_ATTENTION else names(OURS_NO_ATTENTION) + NO_ATTENTION
    return matches(test, names(OURS | NOT_FOR_US) + without)


def may_skip(test):
    """Whether a test is documented as skipped for want of something on the machine."""
    return matches(test, names(MACHINE))
