"""The parity gate of a teacher: its server is shown what it is sent, and what it says depends on the frames."""

import numpy as np

from callbacks.rollout.parity import INAUDIBLE, ParityError
from callbacks.rollout.teacher_prompts import TeacherPrompts
from inference.teacher_pool import check_seen
from inference.vllm.client import VLLMClient
from records.records import Question

TOKENS = 16
"""Tokens whose scores are compared."""


def check_teacher(client: VLLMClient, prompts: TeacherPrompts, question: Question, answer: list[int]) -> float:
    """Compare what a teacher's server is shown, and what it says of other frames.

    Args:
        client: The server.
        prompts: How the teacher is asked.
        question: A question with a clip.
        answer: Some text in the teacher's tokens, which is scored.

    Returns:
        Largest change of a log-probability when the frames are replaced by noise, in nats.

    Raises:
        ParityError: The server's model is shown another prompt or other numbers of frames, or does not see.
        UserError: The clip has no frames, or the server refuses the request.
    """
    pixels = prompts.frames(question).pixels
    images = prompts.pictures(pixels)
    prompt = prompts.prompt(question, images)
    rendered = client.render(prompts.messages(question, images))
    if rendered.images != len(images):
        raise ParityError(
            f"parity of the teacher's frames failed: {len(images)} frames of {question.id} were sent to {client.url}, "
            f"and its model is shown {rendered.images} pictures"
        )
    seen = client.force(prompt.token_ids, "", answer[:TOKENS], prompt.images)
    check_seen(prompt, seen.prompt_token_ids)
    if seen.prompt_token_ids != rendered.token_ids:
        raise ParityError(
            f"parity of the teacher's prompts failed: {client.url} makes {len(rendered.token_ids)} tokens of the chat "
            f"about {question.id}, and {len(seen.prompt_token_ids)} or others came of what was sent: "
            "model.distillation.tokenizer must be that of the server's checkpoint, with its chat template"
        )
    noise = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    other = prompts.prompt(question, prompts.pictures(noise))
    unlike = client.force(other.token_ids, "", answer[:TOKENS], other.images)
    pairs = zip(seen.samples[0].logprobs, unlike.samples[0].logprobs, strict=True)
    change = max(abs(one - two) for one, two in pairs)
    if change < INAUDIBLE:
        raise ParityError(
            f"parity of seeing failed: replacing the frames of {question.id} by noise changes nothing on {client.url}: "
            "the server ignores the frames that it is sent, or its vision tower is broken"
        )
    return change
