"""The stages of the whole paper on the synthetic world, in order, each done once.

Every stage is a process of its own that reads files and writes files; what is done is noted on disk, so that a run that
was interrupted anywhere goes on with the stage that was interrupted. What takes seconds to import is imported where a
stage needs it.
"""

import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from inference.server_process.environment import check_machine
from inference.vllm_server import VLLMServer
from mini.evaluation import BENCHMARKS, PROBES, STUDENTS, accuracies_file
from mini.progress_file import ProgressFile
from mini.stage_process import console, run_stage, say
from mini.world.scale import SCALES
from runtime.errors import UserError
from runtime.folder_claim import claimed

ABLATIONS = {"sft": "sft_cot", "agfv": "agfv_sft", "tts": "tts_agfv_sft"}
"""Folder of each SFT run, and the overlay below ``configs/ablation`` that chooses its traces."""
RESUME = ("--ckpt_path", "last")


class Stage(NamedTuple):
    """A part of the run that is done once.

    Attributes:
        title: Its name on the screen and in the progress file.
        run: Does it and returns its result.
        serving: From here on the vLLM server is needed or soon will be; it gets ready in the background.
    """

    title: str
    run: Callable[[], Any]
    serving: bool = False


class Pipeline:
    """One run of all stages below a folder."""

    def __init__(self, output: Path, seed: int = 0, scale: str = "standard", verbose: bool = False) -> None:
        """Describe the run.

        Args:
            output: Folder of everything that is written.
            seed: Seed of corpus, student and training.
            scale: A key of ``SCALES``.
            verbose: Let the stages show everything that the libraries print.
        """
        self.output = output
        self.seed = seed
        self.scale = SCALES[scale]
        self.progress = ProgressFile(output / "progress.json", {"scale": scale, "seed": seed})
        self.server = VLLMServer(
            output / "student", max_num_seqs=256, max_model_len=512, log_file=output / "vllm" / "server.log", report=say
        )
        os.environ["SIGHTSOUND_MINI"] = str(output)
        if verbose:
            os.environ["SIGHTSOUND_VERBOSE"] = "1"

    def run(self, resume: bool = False) -> dict[str, dict[str, float]]:
        """Run what is not done yet.

        Args:
            resume: Go on with an interrupted run; otherwise all but the corpus and the student is made anew.

        Returns:
            The accuracies: ``{student: {benchmark: accuracy}}``.

        Raises:
            UserError: A stage failed, or the run to be resumed had other settings.
        """
        started = time.monotonic()
        check_machine()  # before minutes are spent on what comes before the server
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.output} cannot be made ({error.strerror}): set --output") from None
        with claimed(self.output, "--output"):
            self._begin(resume)
            self._announce()
            accuracies = self._stages()
        say(f"this took {(time.monotonic() - started) / 60:.1f} minutes; results are in {self.output}")
        return accuracies

    def _stages(self) -> dict[str, dict[str, float]]:
        """Run all stages that are not done, show what was found, and return the accuracies."""
        try:
            for number, stage in enumerate(self._plan(), start=1):
                self._stage(stage, f"stage {number} of {len(self._plan())}: {stage.title}")
        finally:
            self.server.stop()
        accuracies = self.progress.done["benchmarks"]
        write_report(self.output, self._show(accuracies))
        return accuracies

    def _begin(self, resume: bool) -> None:
        """Take over what an earlier run has written, or remove it; nobody else's: ``runs/`` has folders of these names.

        Args:
            resume: Take it over.

        Raises:
            UserError: The folders are not of a run of this pipeline, or of one with other settings.
        """
        folders = [self.output / name for name in ("teacher", "verify", *ABLATIONS, "grpo", "benchmark", "report")]
        present = [folder for folder in (*folders, self.output / "student") if folder.exists()]
        if present and not self.progress.path.exists():
            raise UserError(
                f"{present[0]} is there without {self.progress.path.name} beside it, so it is not of a run that can be "
                "gone on with or replaced: choose another folder with --output, or remove it"
            )
        self.progress.read(whatever=not resume)
        if not resume:
            self.progress.done = {}
        self.progress.write()
        for folder in [] if resume else folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _plan(self) -> list[Stage]:
        """Return all stages in their order."""
        return [
            Stage("corpus and student", self._world),
            *(Stage(name, partial(predict, name)) for name in ("teacher", "verify")),
            *(
                Stage(STUDENTS[folder], partial(self._sft, folder, ablation), True)
                for folder, ablation in ABLATIONS.items()
            ),
            Stage("GRPO", self._grpo, True),
            Stage("benchmarks", self._benchmarks, True),
            Stage("can it hear?", self._probes, True),
        ]

    def _announce(self) -> None:
        """Say what will run, for how long and where it goes."""
        settings = ", ".join(f"{name} {value}" for name, value in self.progress.settings.items())
        titles = [stage.title for stage in self._plan()]
        say(f"The whole paper on a synthetic world ({settings}): {self.scale.minutes} minutes on two cores")
        say(f"{len(titles)} stages: {', '.join(titles)}")
        say(f"All of it is written to {self.output}")

    def _stage(self, stage: Stage, heading: str) -> None:
        """Run a stage unless it is done.

        Args:
            stage: The stage.
            heading: Which one it is.
        """
        if stage.title in self.progress.done:
            say(f"{heading}: was done before")
            return
        if stage.serving and self.server.process is None:
            self.server.start(wait=False)
            os.environ["SIGHTSOUND_SERVER"] = self.server.url
        with timed(heading):
            self.progress.finish(stage.title, stage.run())

    def _world(self) -> None:
        from mini.build_world import build_world

        build_world(self.output, self.seed, self.scale.corpus, self.scale.student)

    def _sft(self, folder: str, ablation: str) -> None:
        overlay = ("--config", f"ablation/{ablation}.yaml", f"--trainer.default_root_dir={self.output / folder}")
        train("sft", self.seed, *overlay, *self.scale.options.get("sft", ()), *RESUME, server=self.server)

    def _grpo(self) -> None:
        self.server.wait()
        train("grpo", self.seed, *self.scale.options.get("grpo", ()), *RESUME, server=self.server)

    def _benchmarks(self) -> dict[str, dict[str, float]]:
        students = [f"{name}={self._weights(name)}" for name in STUDENTS]
        found = self._evaluate(*students)
        return {student: {name: found[f"{student}/{name}"] for name in BENCHMARKS} for student in STUDENTS}

    def _probes(self) -> dict[str, float]:
        found = self._evaluate(f"grpo={self._weights('grpo')}", "--probes")
        return {probe: found[f"grpo/avqa-{probe}"] for probe in PROBES}

    def _evaluate(self, *arguments: str) -> dict[str, float]:
        self.server.wait()
        folder = self.output / "benchmark"
        run_stage("evaluation", ["-m", "mini.evaluation", "--output", str(folder), *arguments], self.server)
        found = accuracies_file(folder)
        found.read()
        return found.done

    def _weights(self, student: str) -> Path:
        return self.output / "student" if student == "untrained" else self.output / student / "best"

    def _show(self, accuracies: dict[str, dict[str, float]]) -> Path:
        """Print what was found, and return the metrics of GRPO's sittings, joined."""
        from mini.summary import accuracy_table, chance, merge_metrics, rewards

        probed = self.progress.done["can it hear?"]
        console.print(accuracy_table(accuracies, chance(self.output / "corpus")))
        replaced = ", ".join(f"{100 * accuracy:.1f} ({probe})" for probe, accuracy in probed.items())
        say(
            f"can it hear? {STUDENTS['grpo']} on {BENCHMARKS['avqa']}: {100 * accuracies['grpo']['avqa']:.1f}, "
            f"with its audio replaced {replaced}"
        )
        metrics = merge_metrics(self.output / "grpo")
        first, last = rewards(metrics)
        say(f"mean reward in GRPO (0 to 2): {first:.2f} in the first steps, {last:.2f} in the last")
        return metrics


@contextmanager
def timed(heading: str) -> Iterator[None]:
    """Announce a part and say how long it took."""
    console.rule(heading)
    started = time.monotonic()
    yield
    say(f"{heading}: {time.monotonic() - started:.0f} s")


def predict(stage: str) -> None:
    """Let the embedded teacher or the embedded checker work; what is there already is kept.

    Args:
        stage: ``teacher`` or ``verify``.
    """
    from mini.world.endpoints import MiniEndpoints

    with MiniEndpoints() as endpoints:
        environment = {"SIGHTSOUND_TEACHER": endpoints.url, "SIGHTSOUND_CHECKER": endpoints.url}
        train_py("predict", stage, environment=environment)


def train(stage: str, seed: int, *extra: str, server: VLLMServer | None = None) -> None:
    """Run ``train.py fit`` of a stage in a process of its own.

    Args:
        stage: ``sft``, ``grpo`` or ``verifier``.
        seed: Seed of the run and of the order of the data.
        *extra: Further arguments.
        server: The server that it needs.
    """
    train_py("fit", stage, *extra, f"--seed_everything={seed}", f"--data.init_args.seed={seed}", server=server)


def train_py(
    subcommand: str,
    stage: str,
    *extra: str,
    server: VLLMServer | None = None,
    environment: dict[str, str] | None = None,
) -> None:
    """Run ``train.py`` with a stage's configuration and its overlay for the synthetic world.

    Args:
        subcommand: ``fit`` or ``predict``.
        stage: Name of both configurations.
        *extra: Further arguments.
        server: The server that it needs.
        environment: Variables beside those of this process.

    Raises:
        UserError: It failed; it has said why.
    """
    arguments = ["train.py", subcommand, "--config", f"{stage}.yaml", "--config", f"mini/{stage}.yaml", *extra]
    say(f"$ {shlex.join(['python', *arguments])}")
    run_stage(stage, arguments, server, environment)


def write_report(output: Path, metrics: Path) -> None:
    """Write tables, plots and examples of all students below ``output``.

    Args:
        output: The run's folder.
        metrics: Metrics of GRPO.
    """
    from evaluation.__main__ import main as scores_main

    runs = [f"{title}={output / 'benchmark' / student}" for student, title in STUDENTS.items()]
    where = ["--data", str(output / "corpus"), "--output", str(output / "report"), "--title", "The synthetic world"]
    scores_main(["report", *runs, f"--metrics={STUDENTS['grpo']}={metrics}", *where])
