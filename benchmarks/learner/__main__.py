"""The learner against the conventional step: ``python -m benchmarks.learner`` (about six minutes on two quiet cores).

Measured are ``training_step`` of GRPOModule (reference forward, policy forward, backward, optimizer) and of SFTModule,
each in a Trainer on a batch that is at hand, and the same steps in plain transformers and peft
(``benchmarks/measuring/conventional.py``), alternating in one run, on the same random student, clips and completions;
then the whole GRPO step with rollouts from a real vLLM server and weight pushes (``benchmarks/learner/whole_step.py``).
Peak memory is that of processes of their own. Both sides get their batches collated; what collating takes is listed
beside.
Writes ``learner.json``, ``learner.png`` and ``learner.md`` to ``benchmarks/results``.

On a GPU: ``python -m benchmarks.learner --device cuda --shape 7b --dtype bfloat16 --tokens 200 --backends``. Tokens per
second and model FLOPs utilisation are counted on the tokens that are needed (each prompt once). ``python -m
benchmarks.peers DIR`` measures all this and the learners of ms-swift and TRL beside it.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.learner.command import options_of, run, world_of
from benchmarks.learner.memory import report_memory
from benchmarks.learner.report import table


def main(args: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learner", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options = options_of(parser, args)
    world = world_of(options)
    if options.memory_of:
        report_memory(options, world)
        return
    command = ["python -m benchmarks.learner", *(sys.argv[1:] if args is None else args)]
    print(table(run(options, world, " ".join(command))))


if __name__ == "__main__":
    main()
