"""The trained verifier: its head, its calibration, its data, and the stages that train and use it."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datamodules.alignment import AlignmentDataModule, split_by_clip
from datamodules.batching.heard_traces import LabelledTraces
from lightning_modules.models.alignment_head import AlignmentHead
from lightning_modules.objectives.calibration import fit_temperature
from lightning_modules.trace_verdicts import TraceVerdicts
from mini.world.corpus import CorpusConfig, build_corpus
from mini.world.student import build_student
from records.records import Question, Trace, Verdict, read_jsonl, write_jsonl
from runtime.errors import UserError
from tests.support.host_tensors import HostTensors, watch_logged
from tests.support.stages import records
from train import main


def test_probability_is_the_product_over_tokens() -> None:
    """One window of sound and two tokens, with weights that make every number known."""
    head = AlignmentHead(audio_width=2, text_width=1, hidden=1, dropout=0.0).eval()
    with torch.no_grad():
        head.hear[1].weight.zero_()
        head.hear[1].bias.fill_(1.0)  # key = 1
        head.read.weight.fill_(2.0)  # query = 2 x
        head.read.bias.zero_()
        head.claim.weight.zero_()
        head.claim.bias.zero_()  # g = 0.5
    audio, heard = torch.tensor([[[1.0, -1.0]]]), torch.tensor([[True]])
    text, mask = torch.tensor([[[1.0], [-1.0], [7.0]]]), torch.tensor([[True, True, False]])
    logit = head(audio, heard, text, mask)
    sigmoid = [1 / (1 + torch.e**-2), 1 / (1 + torch.e**2)]  # evidence 2 and -2
    fits = (1 - 0.5 * (1 - sigmoid[0])) * (1 - 0.5 * (1 - sigmoid[1]))
    assert torch.sigmoid(logit).item() == pytest.approx(fits, abs=1e-5)


def test_calibration_recovers_temperature_and_offset() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, generator=generator) * 4
    labels = (torch.rand(20_000, generator=generator) < torch.sigmoid(logits / 2 + 0.7)).float()
    temperature, offset = fit_temperature(logits, labels)
    assert temperature == pytest.approx(2.0, rel=0.06) and offset == pytest.approx(0.7, abs=0.06)


def test_no_clip_is_in_two_parts_and_the_number_of_verdicts_is_kept() -> None:
    by_clip = {
        f"clip{c}": [
            LabelledTraces(
                Question(f"q{c}-{q}", "avqa", f"clip{c}", "?", ("a", "b"), 0, "x"),
                tuple(Trace(f"q{c}-{q}", s, "r", "a", "t") for s in range(4)),
                (True, False, True, False),
            )
            for q in range(2)
        ]
        for c in range(40)
    }
    parts = split_by_clip(by_clip, calibration=30, held_out=0.2, per_clip=1, seed=0)
    clips = {name: {item.question.media for item in items} for name, items in parts.items()}
    verdicts = {name: sum(len(item.traces) for item in items) for name, items in parts.items()}
    assert verdicts == {"train": 24, "val": 6, "test": 80}
    assert not clips["train"] & clips["val"] and not (clips["train"] | clips["val"]) & clips["test"]


def test_a_trace_without_a_thought_is_neither_learnt_from_nor_accepted(tmp_path: Path) -> None:
    questions = [Question(f"q{c}", "avqa", f"clip{c}", "?", ("a", "b"), 0, "x") for c in range(20)]
    traces = {q.id: [Trace(q.id, sample, said, "a", "t") for sample, said in enumerate(("", "r"))] for q in questions}
    write_jsonl(
        tmp_path / "v.jsonl", [Verdict(q.id, s, s > 0 and q.id < "q15", "c") for q in questions for s in (0, 1)]
    )
    data = AlignmentDataModule(
        str(tmp_path), traces=str(tmp_path), verdicts=str(tmp_path / "v.jsonl"), calibration=20, held_out=0.5
    )
    data.traces, data.questions = traces, lambda role: questions  # type: ignore[method-assign,assignment]
    learnt = [trace for items in data.parts.values() for item in items for trace in item.traces]
    assert sorted(trace.question_id for trace in learnt) == sorted(traces) and {t.reasoning for t in learnt} == {"r"}
    judged = TraceVerdicts("c", threshold=0.5)
    judged.judge(traces["q0"], [0.9, 0.9])
    (result,) = judged.take()
    assert [(v.accepted, v.probability) for v in result.records] == [(False, None), (True, 0.9)]


def test_each_of_two_ranks_is_calibrated_on_all_that_was_held_out(tmp_path: Path) -> None:
    """Neither the loaders nor Lightning's sampler leave a rank a share of it."""
    data = AlignmentDataModule(str(tmp_path), traces=str(tmp_path))
    question = Question("q", "avqa", "clip", "?", ("a", "b"), 0, "x")
    held_out = [LabelledTraces(question, (Trace("q", sample, "r", "a", "t"),), (True,)) for sample in range(5)]
    data.parts = {"train": held_out, "val": held_out, "test": held_out}
    data._collator = SimpleNamespace()  # type: ignore[assignment]
    own = SimpleNamespace(use_distributed_sampler=False)
    data.trainer = SimpleNamespace(world_size=2, global_rank=1, _accelerator_connector=own)  # type: ignore[assignment]
    assert len(data.val_dataloader().dataset) == len(held_out)
    own.use_distributed_sampler = True
    for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader):
        with pytest.raises(UserError, match=r"set trainer\.use_distributed_sampler to false"):
            loader()


def test_trained_verifier_takes_the_endpoint_s_place(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = build_corpus(
        tmp_path / "corpus",
        CorpusConfig(seed=3, train_clips=90, val_clips=2, test_clips=1, silent=0.6),
        processes=1,
        progress=lambda line: None,
    )
    traces = list(read_jsonl(corpus / "traces.jsonl", Trace))
    write_jsonl(tmp_path / "traces" / "rank-00000.jsonl", traces)
    student = build_student(tmp_path / "student", {t.reasoning for t in traces}, progress=lambda line: None)
    shared = [
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        f"--model.init_args.weights={student}",
        "--model.init_args.hears=spectrum",
        f"--data.init_args.root={corpus / 'avqa'}",
        f"--data.init_args.traces={tmp_path / 'traces'}",
        "--data.init_args.num_workers=0",
    ]
    fit = [
        *shared,
        f"--trainer.default_root_dir={tmp_path / 'fit'}",
        f"--data.init_args.verdicts={corpus / 'verdicts.jsonl'}",
        "--data.init_args.calibration=60",
    ]
    logged = watch_logged(monkeypatch)
    with HostTensors():
        main(["fit", "--config", "verifier.yaml", *fit, "--trainer.max_epochs=4"])
    assert {"train/loss", "val/loss", "val/auroc"} < set(logged) and not any(logged.values())
    head = tmp_path / "fit" / "head"
    assert set(json.loads((head / "report.json").read_text())["held_out"]) == {"auroc", "accuracy", "ece", "precision"}
    main(["test", "--config", "verifier.yaml", *fit, f"--model.init_args.head={head}"])
    assert re.search(r"^test: accuracy .*, auroc .*, ece .*, precision ", capsys.readouterr().out, re.MULTILINE)
    verify = [*shared, f"--trainer.default_root_dir={tmp_path / 'verify'}", f"--model.init_args.head={head}"]
    main(["predict", "--config", "verify_trained.yaml", *verify, "--data.init_args.limit=20"])
    main(["predict", "--config", "verify_trained.yaml", *verify])
    verdicts = records(tmp_path / "verify" / "verdicts", Verdict)
    assert sorted((v.question_id, v.sample) for v in verdicts) == sorted((t.question_id, t.sample) for t in traces)
    assert all(v.probability is not None and v.accepted == (v.probability >= 0.5) for v in verdicts)
    assert len({v.probability for v in verdicts}) > 20
    with pytest.raises(SystemExit):
        main(["predict", "--config", "verify_trained.yaml", *shared, "--model.init_args.head=/nowhere"])
    assert "no trained head in /nowhere" in capsys.readouterr().err
