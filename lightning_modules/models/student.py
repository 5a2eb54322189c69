"""The student with optional LoRA, scored on groups of completions, exported under the Hub's names."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import register_fsdp_forward_method

from datamodules.batching.batch import AudioQABatch
from datamodules.batching.host_arrays import to_device
from lightning_modules.models.activation_offload import kept_in_main_memory
from lightning_modules.models.adapters import LoRASettings, with_adapters
from lightning_modules.models.architectures.architecture import Architecture, architecture_of
from lightning_modules.models.architectures.audio_encoding import audio_places, check_attention
from lightning_modules.models.architectures.transformers_internals import fuse, set_attention
from lightning_modules.models.checkpoints.checkpoint_folder import load_architecture, load_model, load_processor
from lightning_modules.models.checkpoints.deferred_weights import (
    TensorPlace,
    find_tensors,
    model_without_weights,
    read_weights,
)
from lightning_modules.models.checkpoints.hub_weights import HubTensors, HubType, Read, hub_shapes, untied_by_adapters
from lightning_modules.models.checkpoints.loading import present_loading
from lightning_modules.models.checkpoints.shapes_only import model_of_shapes
from lightning_modules.models.plain_attention import check_plain_attention
from lightning_modules.models.sharding import score, spread_weights
from lightning_modules.models.shared_prompt import ATTENTION, pack_groups, spread
from lightning_modules.models.student_settings import StudentSettings
from lightning_modules.models.token_logprobs import head_logprobs
from lightning_modules.models.weight_types import weight_type
from records.hub_files import HubTensor, write_hub_files
from runtime.settings import takes
from runtime.whole_folder import whole_folder

log = logging.getLogger(__name__)


class CompletionScores(NamedTuple):
    """What a policy says of completions; zero outside the completions' mask.

    Attributes:
        logprobs: Log-probability of each completion token ``[B, G, C]``, float32, in nats.
        entropy: Entropy of the distribution that the token was drawn from ``[B, G, C]``, without gradient unless asked.
    """

    logprobs: Tensor
    entropy: Tensor


class Student(nn.Module):
    """An audio language model as a policy over completions.

    Attributes:
        settings: How it was loaded.
        weights: Hub name or directory of its checkpoint; empty where it was made of a model in memory.
        lora: Its adapters; None where all weights are trained.
    """

    @takes(StudentSettings)
    def __init__(self, *weights: Any, **settings: Any) -> None:
        """Load the model and its processor, as :class:`.student_settings.StudentSettings` describes.

        Raises:
            WeightsError: Nothing is there, it is no known architecture or attends in a way that is not computed here,
                weights are missing or of a wrong shape, or settings contradict each other.
        """
        super().__init__()
        wanted, loading = StudentSettings(*weights, **settings), present_loading()
        loaded_in = weight_type(wanted.dtype, wanted.lora is None, loading)
        places = None
        if loading.shapes_of is not None:
            shapes = (wanted.weights, loading.shapes_of, loaded_in, wanted.attn_implementation)
            model, processor = model_of_shapes(*shapes)
        else:
            processor = load_processor(wanted.weights)
            architecture = load_architecture(wanted.weights)[0]
            found = find_tensors(wanted.weights) if loading.deferred else None
            if found is None:
                model = load_model(architecture, wanted.weights, loaded_in, wanted.attn_implementation)
            else:
                model, places = model_without_weights(
                    architecture, wanted.weights, found, loaded_in, wanted.attn_implementation
                )
        self._setup(model, processor, wanted, places)

    @classmethod
    def of_model(
        cls,
        model: Any,
        processor: Any,
        lora: LoRASettings | None = None,
        gradient_checkpointing: bool = False,
        freeze_audio_tower: bool = False,
    ) -> "Student":
        """Make a student of a model that is in memory already; further arguments are those of StudentSettings.

        Args:
            model: The model, of a class of :mod:`.architectures.architecture`; it becomes the student's own.
            processor: Its processor.
            lora: Train low-rank adapters instead of all weights.
            gradient_checkpointing: Trade time for memory in the backward pass.
            freeze_audio_tower: Train the language model only.
        """
        student = cls.__new__(cls)
        nn.Module.__init__(student)
        settings = StudentSettings(
            "", lora, gradient_checkpointing=gradient_checkpointing, freeze_audio_tower=freeze_audio_tower
        )
        student._setup(model, processor, settings)
        return student

    def _setup(
        self, model: Any, processor: Any, settings: StudentSettings, unread: Mapping[str, TensorPlace] | None = None
    ) -> None:
        self.settings = settings
        self.weights, self.lora = settings.weights, settings.lora
        self._unread = unread
        self.sharded = self._head_apart = False
        self.processor = processor
        self.architecture: Architecture = architecture_of(model.config)
        check_plain_attention(self.architecture.text_config(model.config), settings.weights)
        set_attention(self.architecture.language_model(model), ATTENTION)
        fuse(self.architecture.language_model(model))
        if settings.freeze_audio_tower or self.lora is not None:
            for part in self.architecture.audio_modules(model).values():
                part.requires_grad_(False)
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = model
        if self.lora is not None:
            self.model = with_adapters(model, self.architecture, self.lora, settings.freeze_audio_tower, self.weights)
            if settings.gradient_checkpointing:
                self.model.enable_input_require_grads()
        for unused in self.architecture.unused(self.base):
            unused.requires_grad_(False)
        self.model.train()  # from_pretrained leaves it in evaluation mode, in which gradients are never checkpointed

    @property
    def base(self) -> Any:
        """The transformers model, adapters inside where there are any."""
        return self.model.base_model.model if self.lora is not None else self.model

    @property
    def audio_modules(self) -> dict[str, nn.Module]:
        """The parts that turn features into embeddings."""
        return self.architecture.audio_modules(self.base)

    @property
    def audio_tower_frozen(self) -> bool:
        """True when no weight of the audio path is trained."""
        return not any(p.requires_grad for part in self.audio_modules.values() for p in part.parameters())

    def shard(self, mesh: DeviceMesh, gathered: torch.dtype | None = None) -> None:
        """Spread weights, gradients and optimizer states over the ranks of ``mesh`` (FSDP2).

        Weights that were deferred (:mod:`.checkpoints.deferred_weights`) are read now, each rank its own rows.

        Under it :meth:`encode_audio`, :meth:`completion_logprobs` and :meth:`hub_tensors` are collective: all ranks
        call them together.

        Args:
            mesh: The ranks in one dimension; or copies of the weights, and the ranks of each.
            gathered: Type that weights are gathered and computed with in, their own unless given.
        """
        layers, embedding = self.architecture.layers(self.base), self.base.get_input_embeddings()
        self._head_apart = spread_weights(self, layers, embedding, self.base.lm_head, mesh, gathered)
        self.sharded = True
        if self._unread:
            index = f":{torch.cuda.current_device()}" if mesh.device_type == "cuda" else ""
            read_weights(self.base, self._unread, torch.device(mesh.device_type + index))
            self._unread = None
        for method in ("encode_audio", "completion_logprobs"):
            register_fsdp_forward_method(self, method)

    def reduce_gradients(self, wanted: bool) -> None:
        """Say whether backward passes from now on sum gradients over the ranks that share the weights.

        Args:
            wanted: Otherwise each rank keeps its own, whole and in float32, until the next pass that sums them.
        """
        root: Any = self
        root.set_requires_gradient_sync(wanted)

    def encode_audio(self, batch: AudioQABatch) -> Tensor:
        """Return the embeddings of all audio tokens of the batch's clips ``[sum of tokens, H]``, each computed once.

        Those that come with the batch (``batch.audio``) are taken as they are.
        """
        return self._encode_audio(batch)

    def _encode_audio(self, batch: AudioQABatch) -> Tensor:
        if batch.audio is not None:
            return torch.cat([clip.to(batch.features.device, non_blocking=True) for clip in batch.audio])
        tower: Any = self.audio_modules["audio_tower"]
        check_attention(tower, batch.features.device.type)
        with contextlib.nullcontext() if not self.audio_tower_frozen else torch.no_grad():
            return self.architecture.encode_audio(self.audio_modules, batch.features, batch.feature_lengths)

    def completion_logprobs(
        self,
        batch: AudioQABatch,
        temperature: float = 1.0,
        reference: bool = False,
        audio: Tensor | None = None,
        entropy: bool = True,
        entropy_gradient: bool = False,
    ) -> CompletionScores:
        """Score ``batch.completions``: each clip is encoded once, each prompt computed once for its G completions.

        Args:
            batch: B questions with completions.
            temperature: Divides the logits, as in sampling.
            reference: Score under the weights without the adapters.
            audio: Result of :meth:`encode_audio` when it is at hand already.
            entropy: Compute entropies; without, they are zero and the pass is a little quicker.
            entropy_gradient: Let gradients through the entropies.

        Returns:
            Per-token log-probabilities and entropies.

        Raises:
            ValueError: The batch has no completions, or its prompts have another number of audio tokens than its clips.
        """
        completions = batch.completions
        if completions is None:
            raise ValueError("the batch has no completions to score")
        if reference and self.lora is None:
            raise ValueError("a student without adapters has no reference inside: keep a frozen copy")
        with self.model.disable_adapter() if reference else contextlib.nullcontext():
            audio = self._encode_audio(batch) if audio is None else audio
            packed = pack_groups(batch.prompt_ids, batch.prompt_lengths, completions.ids, completions.lengths)
            embedded = self.embed(packed.ids, batch, audio, packed.starts)
            with kept_in_main_memory(embedded.device) if self.settings.activation_offload else contextlib.nullcontext():
                hidden = self.architecture.language_model(self.base)(
                    inputs_embeds=embedded,
                    position_ids=packed.positions,
                    attention_mask=self.architecture.no_mask(embedded),
                    use_cache=False,
                    shared_prompt=packed.layout,
                ).last_hidden_state
            scores = score if self._head_apart else head_logprobs
            logprobs, entropies = scores(
                self.base.lm_head,
                hidden[0][packed.predictors],
                packed.targets,
                temperature,
                entropy,
                reference,
                entropy_gradient,
            )
        shape = completions.ids.shape
        return CompletionScores(*(spread(part, packed.scored, *shape) for part in (logprobs, entropies)))

    def embed(self, ids: Tensor, batch: AudioQABatch, audio: Tensor, starts: np.ndarray | None = None) -> Tensor:
        """Embed tokens and put the audio where the prompts have placeholders.

        Args:
            ids: Tokens with the batch's prompts in their order, ``[rows, n]``.
            batch: The questions.
            audio: Result of :meth:`encode_audio`.
            starts: Where each prompt begins in ``ids.flatten()``; by default each has a row of its own. Elsewhere the
                placeholder is a word like any other.

        Raises:
            ValueError: The prompts have another number of placeholders than their clips have audio tokens.
        """
        starts = np.arange(len(batch)) * ids.shape[1] if starts is None else starts
        tokens = self.architecture.front_end.num_tokens(batch.feature_lengths)
        placeholder = self.architecture.audio_token_id(self.base.config)
        places = to_device(audio_places(batch, tokens, placeholder, starts), ids.device)
        embeddings = self.base.get_input_embeddings()(ids)
        return embeddings.flatten(0, 1).index_copy(0, places, audio.to(embeddings.dtype)).view_as(embeddings)

    def hub_shapes(self, dtype: HubType = None) -> dict[str, HubTensor]:
        """Return shapes and types of what :meth:`hub_tensors` yields, in its order; nothing is computed or gathered.

        Args:
            dtype: As for :meth:`hub_tensors`.
        """
        return hub_shapes(self.base, self.architecture, dtype)

    def hub_tensors(
        self, dtype: HubType = None, device: torch.device | str = "cpu", read: Read | None = None
    ) -> HubTensors:
        """Return all weights under the Hub's names, adapters folded in, one at a time, in main memory by default.

        Sharded weights are gathered: all ranks run through it together, rank 0 is given the tensors, the others
        nothing; a rank that may stop early must close it.

        Args:
            dtype: Type of the floating-point weights: one for all, or one by name; by default as in
                memory, those that an adapter changes in float32.
            device: Where the values are wanted.
            read: Reads weights that are not in memory, one at a time.
        """
        return HubTensors(self.base, self.architecture, dtype, device, read)

    def save_pretrained(
        self,
        directory: str | os.PathLike[str],
        notes: Mapping[str, str] | None = None,
        read: Read | None = None,
    ) -> None:
        """Write a checkpoint that ``from_pretrained`` and vLLM load, in place of what was there before.

        Where the weights are sharded all ranks call this together and rank 0 writes; where they are whole one rank
        alone calls it.

        Args:
            directory: Where to write; it appears complete or not at all.
            notes: Text files that are written beside the weights, by name.
            read: Reads weights that are not in memory, one at a time.

        Raises:
            UserError: There is no room, or the place cannot be written.
        """
        shapes = self.hub_shapes()
        size = sum(part.nbytes for part in shapes.values())
        with contextlib.closing(self.hub_tensors(read=read)) as tensors:
            if self.sharded and torch.distributed.get_rank() > 0:
                return
            with whole_folder(Path(directory), size) as fresh:
                write_hub_files(tensors, shapes, fresh)
                tied = bool(self.base.all_tied_weights_keys) and not untied_by_adapters(self.base)
                self.architecture.hub_config(self.base.config, tied).save_pretrained(fresh)
                self.base.generation_config.save_pretrained(fresh)
                self.processor.save_pretrained(fresh)
                for name, text in (notes or {}).items():
                    (fresh / name).write_text(text, encoding="utf-8")

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield name and value of the weights that are trained."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)
