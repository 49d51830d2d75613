"""What becomes of every argument of TRL's GRPOTrainer and GRPOConfig: docs/from_grpo.md shows it as a table.

An argument means something here, or has no effect on any result, or is refused with the reason. The default
of a refused argument is accepted, since it asks for nothing.
"""

BATCH = "completions of a generation; divided by `num_generations`, they are its prompts"
LOGS = "which generations reach `on_log` and `state.log_history`"
DTYPE = "`model.dtype`, where the model is loaded here; else the model's own"
EVALUATES = "`evaluation.every`; `no`: every ten generations, since validation selects the result"
SAVES = "which generations reach `on_save`; every generation is saved, whatever it is"
PUSH = "the repository of `push_to_hub`"
TRACKS = "read by the tracker's callback, which is that of transformers"

MEANS = {
    "model": "the model, or its name; a model gets its weights and settings back",
    "reward_funcs": "`task.reward` or `task.rewards`: a function, a name, or a list of them",
    "args": "an `EvolutionConfig`",
    "train_dataset": "rows with a column `prompt`, text or messages; the others go to the reward",
    "eval_dataset": "validation rows; without them `num_validation` rows are taken from `train_dataset`",
    "processing_class": "the tokenizer; without it the model's own is loaded",
    "callbacks": "called as by the Trainer, one generation for one step",
    "peft_config": "`adapter`: its `r`, `lora_alpha` and `target_modules`; what else it asks for is refused",
    "output_dir": "the run directory",
    "max_steps": "`evolution.generations`; without it, `num_train_epochs` gives their number",
    "num_train_epochs": "passes over as many prompts as there are",
    "per_device_train_batch_size": f"{BATCH} (default: 64 prompts, or all there are)",
    "gradient_accumulation_steps": f"factor of `per_device_train_batch_size`: {BATCH}",
    "steps_per_generation": f"factor of `per_device_train_batch_size`: {BATCH}",
    "generation_batch_size": BATCH,
    "num_generations": "`sampling.samples_per_prompt`",
    "num_generations_eval": "`evaluation.samples`",
    "max_completion_length": "`sampling.max_new_tokens`",
    "temperature": "`sampling.temperature`",
    "chat_template_kwargs": "`model.chat_template_kwargs`, such as `{'enable_thinking': False}`",
    "reward_weights": "weights of the rewards' sum, the `weight` in `task.rewards`",
    "epsilon": "`fitness.clip`, under `fitness: likelihood`",
    "importance_sampling_level": "`fitness.ratio`, under likelihood: `sequence` (default), `token`",
    "scale_rewards": "`fitness.normalise`, under `fitness: likelihood`: `none` (default), `group`",
    "seed": "`seed`",
    "data_seed": "`task.seed`, of the split",
    "use_cpu": "`model.device: cpu`",
    "bf16": DTYPE,
    "fp16": DTYPE,
    "trust_remote_code": "`model.trust_remote_code`",
    "model_init_kwargs": "`dtype`, `revision` and `trust_remote_code` of it; everything else is refused",
    "logging_strategy": LOGS,
    "logging_steps": LOGS,
    "logging_first_step": LOGS,
    "eval_strategy": EVALUATES,
    "eval_steps": EVALUATES,
    "metric_for_best_model": "`evaluation.select_by`: `reward_greedy` (also `reward`), `reward_sampled`",
    "greater_is_better": "`True` only: negate a reward that should be low",
    "save_strategy": SAVES,
    "save_steps": SAVES,
    "report_to": "the tracker's callback of transformers is added",
    "run_name": TRACKS,
    "project": TRACKS,
    "trackio_space_id": TRACKS,
    "trackio_bucket_id": TRACKS,
    "trackio_static_space_id": TRACKS,
    "push_to_hub": "push once, after training",
    "hub_model_id": f"{PUSH}; default: the name of `output_dir`",
    "hub_token": f"token for {PUSH}; it is never written",
    "hub_private_repo": f"whether {PUSH} is private; default: yes",
    "hub_revision": f"branch in {PUSH}",
}
"""Arguments that mean something here: what."""

WITHOUT_EFFECT = {
    "nothing is computed backwards, so there is no memory to save": (
        "gradient_checkpointing gradient_checkpointing_kwargs activation_checkpointing "
        "activation_checkpointing_kwargs torch_empty_cache_steps use_liger_kernel liger_kernel_config"
    ),
    "the engine finds its batch size and keeps its own cache": (
        "per_device_eval_batch_size eval_accumulation_steps use_cache pad_to_multiple_of"
    ),
    "rows are in memory; there is no data loader": (
        "dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
        "dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order"
    ),
    "there is one process": (
        "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend "
        "ddp_timeout local_rank log_on_each_node save_on_each_node average_tokens_across_devices "
        "ds3_gather_for_generation eval_use_gather_object"
    ),
    "a run resumes to the bit, its newest two checkpoints are kept, and the best policy is the result": (
        "save_total_limit save_only_model load_best_model_at_end eval_on_start full_determinism"
    ),
    "a model is always in evaluation mode": "disable_dropout",
    "samples.jsonl always holds some completions": "log_completions num_completions_to_print",
    "the terminal shows one line, and log.txt all": (
        "disable_tqdm log_level log_level_replica log_multimodal logging_nan_inf_filter"
    ),
    "pushed is the result, after training": "hub_strategy hub_always_push",
    "only scripts read it": "do_train do_eval do_predict resume_from_checkpoint",
}
"""Arguments that change no result, by the reason; every value is accepted."""

REFUSED = {
    "there is no gradient and no optimiser; the step is sized by `sigma`, or by `strategy` in `recipe`": (
        "optimizers learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args "
        "weight_decay adam_beta1 adam_beta2 adam_epsilon optim_target_modules max_grad_norm "
        "label_smoothing_factor neftune_noise_alpha"
    ),
    "there is no reference model; steps are bounded by `strategy.trust_region`": (
        "beta sync_ref_model ref_model_mixup_alpha ref_model_sync_steps use_bias_correction_kl"
    ),
    "it belongs to GRPO's loss; the fitness is `fitness` in `recipe`": (
        "loss_type delta epsilon_high sapo_temperature_neg sapo_temperature_pos vespo_k_pos vespo_lambda_pos "
        "vespo_k_neg vespo_lambda_neg multi_objective_aggregation mask_truncated_completions "
        "top_entropy_quantile entropy_coef use_adaptive_entropy entropy_coef_min entropy_coef_max "
        "entropy_coef_delta entropy_target off_policy_mask_threshold router_aux_loss_coef "
        "cast_lm_head_to_fp32"
    ),
    "strategy steps per batch of completions are `fitness.steps` in `recipe`": "num_iterations",
    "completions are drawn from the whole distribution at `temperature`": (
        "top_p top_k min_p repetition_penalty generation_kwargs cache_implementation"
    ),
    "the engine is transformers in this process": (
        "use_vllm vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_structured_outputs_regex "
        "vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port "
        "vllm_gpu_memory_utilization vllm_max_model_length vllm_tensor_parallel_size "
        "vllm_importance_sampling_correction vllm_importance_sampling_mode "
        "vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min vllm_importance_sampling_cap "
        "use_transformers_continuous_batching transformers_continuous_batching_config "
        "use_transformers_paged torch_compile torch_compile_backend torch_compile_mode tf32"
    ),
    "a run has one process and one device": (
        "deepspeed fsdp fsdp_config accelerator_config parallelism_config"
    ),
    "a completion is one message of the assistant": (
        "tools rollout_func environment_factory max_tool_calling_iterations"
    ),
    "a classifier is named, as `reward_funcs='classifier:FOLDER'`, and loads its own tokenizer": (
        "reward_processing_classes"
    ),
    "write `recipe={'model': {'quantization': 'int4'}}`": "quantization_config",
    "every generation draws its prompts at random, without replacement": (
        "shuffle_dataset train_sampling_strategy length_column_name ignore_data_skip"
    ),
    "all columns go to the reward": "remove_unused_columns label_names",
    "validation is at the start, every `eval_steps`, and at the end": "eval_delay",
    "evaluation computes rewards from whole completions": (
        "prediction_loss_only include_for_metrics batch_eval_metrics eval_do_concat_batches bf16_full_eval "
        "fp16_full_eval"
    ),
    "metrics.jsonl holds what is counted: tokens, seconds, memory": (
        "include_num_input_tokens_seen skip_memory_metrics debug"
    ),
    "completions are in samples.jsonl": "log_unique_prompts log_completions_hub_repo",
    "a generation that runs out of memory cannot be made smaller; set `engine.memory_gb` in `recipe`": (
        "auto_find_batch_size"
    ),
    "a checkpoint follows every generation": (
        "enable_jit_checkpoint restore_callback_states_from_checkpoint"
    ),
}
"""Arguments that mean nothing here, by the reason."""


def reasons(table: dict[str, str]) -> dict[str, str]:
    """The reason of each argument of `WITHOUT_EFFECT` or `REFUSED`."""
    return {name: reason for reason, names in table.items() for name in names.split()}
