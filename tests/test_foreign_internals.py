"""What this project takes from inside other packages: where it may be used, and that it is still there.

An upgrade of lightning, transformers, peft, torch, vLLM or wandb may change all of it without a word. Nothing is
imported here: sources are read, so that the answer comes at once and also for what would need a GPU.
"""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HOMES = {
    "lightning": "runtime/lightning_internals.py",
    "transformers": "lightning_modules/models/architectures/transformers_internals.py",
    "torch": "planning/torch_internals.py",
}
"""One file a package for what it keeps to itself."""

ELSEWHERE = {
    "benchmarks/gpu/split_attention.py": {"_flash_attention_forward", "_flash_attention_backward"},
    "benchmarks/peers/swift_steps.py": {"_generate_completions", "_preprocess_inputs"},  # of ms-swift's environment
    "callbacks/checkpoints/checkpointing.py": {
        "_find_last_checkpoints",
        "_monitor_candidates",
        "_save_last_checkpoint",
        "torch.utils._pytree",
    },
    "callbacks/checkpoints/folder_writer.py": {"_spec", "torch.cuda._pin_memory_utils"},
    "callbacks/checkpoints/sharded_strategy.py": {
        "_data_parallel_size",
        "_optimizer",
        "_process_group_backend",
        "_save_distributed_checkpoint",
        "_tensor_parallel_size",
        "torch.distributed.tensor._utils",
    },
    "callbacks/checkpoints/whole_checkpoint.py": {"_remove_checkpoint", "_save_checkpoint"},
    "callbacks/hung_ranks.py": {"_get_default_store"},
    "inference/server_process/gloo_plugin.py": {"_registry"},
    "inference/weight_transfer/gloo_group.py": {"_Options", "_devices"},
    "cli/lightning_cli.py": {"_parse_ckpt_path"},
    "cli/plan.py": {"_run_subcommand"},
    "cli/ranks.py": {"_call_children_scripts"},
    "lightning_modules/eight_bit_moments.py": {"_new_buffer", "torch.utils._python_dispatch"},
    "lightning_modules/models/adapters.py": {"_register_custom_module"},
    "lightning_modules/models/checkpoints/deferred_weights.py": {"_apply"},
}
"""Methods that a class overrides or calls of its own base, and single uses."""

PUBLIC = {"_replace", "_current_frames"}
"""Documented in spite of their names: of named tuples, of ``sys``."""


USES = {
    "runtime/lightning_internals.py": (
        "lightning/pytorch/trainer/trainer.py: Trainer._signal_connector",
        "lightning/pytorch/trainer/trainer.py: Trainer._checkpoint_connector",
        "lightning/pytorch/trainer/trainer.py: Trainer._accelerator_connector",
        "lightning/pytorch/trainer/connectors/signal_connector.py: _SignalConnector.received_sigterm",
        "lightning/pytorch/trainer/connectors/signal_connector.py: "
        "_SignalConnector._sigterm_notifier_fn(self signum _)",
        "lightning/pytorch/trainer/connectors/accelerator_connector.py: _AcceleratorConnector.cluster_environment",
        "lightning/pytorch/trainer/connectors/accelerator_connector.py: _AcceleratorConnector.use_distributed_sampler",
        "lightning/pytorch/loops/fit_loop.py: _FitLoop._should_accumulate(self)",
        "lightning/pytorch/loops/fit_loop.py: _FitLoop._data_fetcher",
        "lightning/pytorch/loops/training_epoch_loop.py: _TrainingEpochLoop._should_check_val_fx(self data_fetcher)",
        "lightning/pytorch/loops/training_epoch_loop.py: _TrainingEpochLoop._batches_that_stepped",
        "lightning/pytorch/strategies/strategy.py: Strategy._launcher",
        "lightning/pytorch/strategies/ddp.py: DDPStrategy._timeout",
        "lightning/pytorch/strategies/model_parallel.py: ModelParallelStrategy._timeout",
        "lightning/pytorch/strategies/model_parallel.py: ModelParallelStrategy._save_distributed_checkpoint",
    ),
    "cli/ranks.py": (
        "lightning/pytorch/strategies/launchers/subprocess_script.py: "
        "_SubprocessScriptLauncher.__init__(self cluster_environment num_processes num_nodes)",
        "lightning/pytorch/strategies/launchers/subprocess_script.py: "
        "_SubprocessScriptLauncher._call_children_scripts(self)",
        "lightning/pytorch/strategies/launchers/subprocess_script.py: _SubprocessScriptLauncher.kill(self signum)",
        "lightning/pytorch/strategies/launchers/subprocess_script.py: '_launch_process_observer(self.procs)'",
    ),
    "cli/lightning_cli.py": (
        "lightning/pytorch/cli.py: LightningCLI._parse_ckpt_path(self)",
        "lightning/pytorch/cli.py: LightningCLI._get(self config key default)",
        "wandb/errors/term.py: termsetup(settings logger)",
    ),
    "cli/plan.py": ("lightning/pytorch/cli.py: LightningCLI._run_subcommand(self subcommand)",),
    "callbacks/checkpoints/whole_checkpoint.py": (
        "lightning/pytorch/callbacks/model_checkpoint.py: ModelCheckpoint._save_checkpoint(self trainer filepath)",
        "lightning/pytorch/callbacks/model_checkpoint.py: ModelCheckpoint._last_global_step_saved",
        "lightning/pytorch/callbacks/model_checkpoint.py: ModelCheckpoint._last_checkpoint_saved",
    ),
    "callbacks/checkpoints/checkpointing.py": (
        "lightning/pytorch/callbacks/model_checkpoint.py: ModelCheckpoint._find_last_checkpoints(self trainer)",
        "lightning/pytorch/callbacks/model_checkpoint.py: ModelCheckpoint._monitor_candidates(self trainer)",
        "lightning/pytorch/callbacks/model_checkpoint.py: "
        "ModelCheckpoint._save_last_checkpoint(self trainer monitor_candidates)",
        "torch/utils/_pytree.py: tree_leaves(tree is_leaf)",
    ),
    "datamodules/batching/worker_tensors.py": (
        "lightning/fabric/utilities/seed.py: pl_worker_init_function(worker_id rank)",
    ),
    "lightning_modules/models/architectures/transformers_internals.py": (
        "transformers/modeling_utils.py: PreTrainedModel._from_config(cls config)",
        "transformers/configuration_utils.py: PreTrainedConfig._attn_implementation(self)",
    ),
    "lightning_modules/models/architectures/audio_flamingo.py": (
        "transformers/models/audioflamingo3/modeling_audioflamingo3.py: AudioFlamingo3Encoder.conv1",
        "transformers/models/audioflamingo3/modeling_audioflamingo3.py: AudioFlamingo3Encoder.conv2",
        "transformers/models/audioflamingo3/modeling_audioflamingo3.py: AudioFlamingo3Encoder.embed_positions",
        "transformers/models/audioflamingo3/modeling_audioflamingo3.py: AudioFlamingo3Encoder.max_source_positions",
        "transformers/models/audioflamingo3/modeling_audioflamingo3.py: AudioFlamingo3Encoder.dropout",
        "transformers/models/audioflamingo3/modeling_audioflamingo3.py: AudioFlamingo3Encoder.layers",
        "transformers/models/audioflamingo3/modeling_audioflamingo3.py: AudioFlamingo3Encoder.avg_pooler",
        "transformers/models/audioflamingo3/modeling_audioflamingo3.py: AudioFlamingo3Encoder.layer_norm",
        "transformers/models/audioflamingo3/modeling_audioflamingo3.py: "
        "AudioFlamingo3EncoderLayer.forward(self hidden_states attention_mask)",
    ),
    "lightning_modules/models/architectures/whisper_encoding.py": (
        "transformers/models/qwen2_audio/modeling_qwen2_audio.py: Qwen2AudioEncoder.conv1",
        "transformers/models/qwen2_audio/modeling_qwen2_audio.py: Qwen2AudioEncoder.conv2",
        "transformers/models/qwen2_audio/modeling_qwen2_audio.py: Qwen2AudioEncoder.embed_positions",
        "transformers/models/qwen2_audio/modeling_qwen2_audio.py: Qwen2AudioEncoder.max_source_positions",
        "transformers/models/qwen2_audio/modeling_qwen2_audio.py: Qwen2AudioEncoder.dropout",
        "transformers/models/qwen2_audio/modeling_qwen2_audio.py: Qwen2AudioEncoder.layers",
        "transformers/models/qwen2_audio/modeling_qwen2_audio.py: Qwen2AudioEncoder.avg_pooler",
        "transformers/models/qwen2_audio/modeling_qwen2_audio.py: Qwen2AudioEncoder.layer_norm",
        "transformers/models/qwen2_audio/modeling_qwen2_audio.py: "
        "Qwen2AudioEncoderLayer.forward(self hidden_states attention_mask)",
    ),
    "lightning_modules/models/architectures/qwen2_5_omni.py": (
        "transformers/models/qwen2_5_omni/modeling_qwen2_5_omni.py: Qwen2_5OmniAudioEncoder.n_window",
        "transformers/models/qwen2_5_omni/modeling_qwen2_5_omni.py: Qwen2_5OmniAudioEncoder.audio_bos_eos_token",
        "transformers/models/qwen2_5_omni/modeling_qwen2_5_omni.py: 'padded_feature'",
        "transformers/models/qwen2_5_omni/modeling_qwen2_5_omni.py: 'chunk_lengths'",
        "transformers/models/qwen2_5_omni/modeling_qwen2_5_omni.py: 'valid_indices'",
        "transformers/models/qwen2_5_omni/modeling_qwen2_5_omni.py: 'pool_indices'",
    ),
    "lightning_modules/models/checkpoints/deferred_weights.py": ("transformers/initialization.py: no_init_weights()",),
    "lightning_modules/models/checkpoints/checkpoint_folder.py": (
        "transformers/utils/chat_template_utils.py: 'def render_jinja_template('",
    ),
    "lightning_modules/models/adapters.py": (
        "peft/tuners/lora/config.py: LoraConfig._register_custom_module(self mapping)",
        "peft/tuners/tuners_utils.py: check_target_module_exists(config key)",
        "peft/tuners/lora/layer.py: LoraLayer.reset_lora_parameters(self adapter_name init_lora_weights)",
    ),
    "planning/torch_internals.py": (
        "torch/distributed/tensor/_sharding_prop.py: "
        "ShardingPropagator._propagate_tensor_meta_non_cached(self op_schema)",
        "torch/_subclasses/fake_tensor.py: unset_fake_temporarily()",
        "torch/_subclasses/fake_tensor.py: 'class FakeTensorMode('",
        "torch/testing/_internal/distributed/fake_pg.py: 'FakeStore'",
        "torch/utils/_pytree.py: tree_iter(tree is_leaf)",
        "lightning/fabric/strategies/model_parallel.py: "
        "_setup_device_mesh(data_parallel_size tensor_parallel_size world_size device)",
    ),
    "callbacks/checkpoints/folder_writer.py": ("torch/cuda/_pin_memory_utils.py: pin_memory(data_ptr size)",),
    "callbacks/checkpoints/sharded_strategy.py": (
        "lightning/pytorch/strategies/model_parallel.py: ModelParallelStrategy._data_parallel_size",
        "lightning/pytorch/strategies/model_parallel.py: ModelParallelStrategy._tensor_parallel_size",
        "lightning/pytorch/strategies/model_parallel.py: ModelParallelStrategy._save_distributed_checkpoint",
        "lightning/pytorch/strategies/model_parallel.py: ModelParallelStrategy._process_group_backend",
        "lightning/pytorch/core/optimizer.py: LightningOptimizer._optimizer",
        "torch/distributed/tensor/_utils.py: "
        "compute_local_shape_and_global_offset(global_shape mesh placements skip_offset)",
    ),
    "inference/server_process/gloo_plugin.py": (
        "vllm/distributed/weight_transfer/factory.py: WeightTransferEngineFactory._registry",
    ),
    "callbacks/hung_ranks.py": ("torch/distributed/distributed_c10d.py: _get_default_store()",),
    "inference/vllm/client.py": (
        "vllm/entrypoints/scale_out/token_in_token_out/api_router.py: '\"/inference/v1/generate\"'",
        "vllm/entrypoints/serve/dev/rpc/api_router.py: '\"/collective_rpc\"'",
        "vllm/entrypoints/serve/dev/server_info/api_router.py: '\"/server_info\"'",
        "vllm/entrypoints/rl/online/api_router.py: '\"/pause\"'",
        "vllm/entrypoints/rl/online/api_router.py: '\"/resume\"'",
        "vllm/entrypoints/rl/online/api_router.py: '\"/is_paused\"'",
        "vllm/entrypoints/rl/online/api_router.py: '\"/update_weight_version\"'",
        "vllm/entrypoints/rl/online/api_router.py: '\"/weight_info\"'",
        "vllm/v1/worker/gpu_model_runner.py: "
        "GPUModelRunner.reload_weights(self weights_iterator weights_path is_checkpoint_format)",
    ),
    "inference/server_process/short_audio.py": (
        "vllm/model_executor/models/qwen2_audio.py: Qwen2AudioFeatureInputs.input_features",
        "vllm/model_executor/models/qwen2_audio.py: Qwen2AudioFeatureInputs.feature_attention_mask",
        "vllm/utils/tensor_schema.py: 'class TensorShape'",
    ),
    "inference/server_process/environment.py": (
        "vllm/envs.py: 'VLLM_SERVER_DEV_MODE'",
        "vllm/envs.py: 'VLLM_CPU_KVCACHE_SPACE'",
        "vllm/envs.py: 'VLLM_CPU_OMP_THREADS_BIND'",
        "vllm/envs.py: 'VLLM_RPC_BASE_PATH'",
        "vllm/envs.py: 'VLLM_ENABLE_V1_MULTIPROCESSING'",
    ),
}
"""What each of our files stands on, as ``file: what``: ``function(parameters)``, ``Class.method(parameters)``,
``Class.attribute``, or words of the file in quotation marks."""


@pytest.mark.parametrize(("user", "use"), [(user, use) for user, uses in USES.items() for use in uses])
def test_it_is_where_it_was(user: str, use: str) -> None:
    where, _, what = use.partition(": ")
    package = where.partition("/")[0]
    if (spec := importlib.util.find_spec(package)) is None:
        pytest.skip(f"{package} is not installed here")
    assert spec.submodule_search_locations is not None
    file = Path(next(iter(spec.submodule_search_locations))).parent / where
    problem = problem_of(file, what)
    assert problem is None, f"{package} {installed(package)}: {where} {problem}; {user} stands on it"


def test_a_change_is_named(tmp_path: Path) -> None:
    file = tmp_path / "loop.py"
    file.write_text("class Loop:\n    def __init__(self):\n        self._step = 0\n    def _done(self, batch): ...\n")
    assert problem_of(file, "Loop._step") is None
    assert problem_of(file, "Loop._done(self batch)") is None
    assert problem_of(file, "Loop._done(self)") == "has Loop._done(self batch) in place of Loop._done(self)"
    assert problem_of(file, "Loop._ended(self)") == "has no Loop._ended"
    assert problem_of(file, "'_stopped'") == "says '_stopped' no more"
    assert problem_of(tmp_path / "gone.py", "Loop._step") == "is gone, and Loop._step with it"


def test_nobody_reaches_inside_but_where_it_is_said() -> None:
    """What other packages keep to themselves is in one file a package, and where ``ELSEWHERE`` says."""
    files = [
        file
        for file in ROOT.rglob("*.py")
        if not any(part.startswith(".") or part in ("tests", "runs", "data") for part in file.relative_to(ROOT).parts)
    ]
    own = PUBLIC | {name for file in files for name in defined(parsed(file))}
    used = {file.relative_to(ROOT).as_posix(): set(reached(parsed(file), own)) for file in files}
    wrong = [
        f"{file} uses {name}: put it into {' or '.join(HOMES.values())}, with what is missing in public"
        for file, names in used.items()
        if file not in HOMES.values()
        for name in sorted(names - ELSEWHERE.get(file, set()))
    ]
    gone = [
        f"{file} uses {name} no more" for file, names in ELSEWHERE.items() for name in names - used.get(file, set())
    ]
    assert not wrong + gone


def problem_of(file: Path, what: str) -> str | None:
    """Say what has become of a part of a file, None where it is as it was."""
    if not file.is_file():
        return f"is gone, and {what} with it"
    if what[0] == "'":
        return None if what[1:-1] in source(file) else f"says {what} no more"
    name, bracket, rest = what.partition("(")
    found = members(file)
    if name not in found:
        return f"has no {name}"
    if bracket and found[name] != rest[:-1]:
        return f"has {name}({found[name]}) in place of {what}"
    return None


def installed(package: str) -> str:
    """The version of a package that is imported under a name."""
    return version(packages_distributions()[package][0])


@cache
def source(file: Path) -> str:
    """The text of a file."""
    return file.read_text(encoding="utf-8")


@cache
def parsed(file: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(source(file))


@cache
def members(file: Path) -> dict[str, str | None]:
    """Functions, methods and attributes of a file by their names, with the parameters of what can be called."""
    found: dict[str, str | None] = {}
    for node in parsed(file).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = parameters(node)
        elif isinstance(node, ast.ClassDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.FunctionDef):
                    found.setdefault(f"{node.name}.{inner.name}", parameters(inner))
                elif isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                    found.setdefault(f"{node.name}.{inner.attr}", None)
                elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                    found.setdefault(f"{node.name}.{inner.target.id}", None)
    return found


def parameters(function: ast.FunctionDef) -> str:
    """The names of a function's parameters."""
    return " ".join(one.arg for one in [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs])


def private(name: str) -> bool:
    """Whether one of a dotted name's parts begins with one underscore."""
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def overrides(node: ast.AST) -> bool:
    """Whether a function says that it overrides another one."""
    return isinstance(node, ast.FunctionDef) and any(
        isinstance(mark, ast.Name) and mark.id == "override" for mark in node.decorator_list
    )


def defined(tree: ast.Module) -> Iterator[str]:
    """Yield private names that a file gives to something of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not overrides(node):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                yield node.attr
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def reached(tree: ast.Module, own: set[str]) -> Iterator[str]:
    """Yield private names of other packages that a file uses, overrides or imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
            yield node.attr
        elif overrides(node) and private(node.name) and node.name not in own:  # type: ignore[attr-defined]
            yield node.name  # type: ignore[attr-defined]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            if private(node.module):
                yield node.module
            else:
                yield from (one.name for one in node.names if private(one.name) and one.name not in own)
