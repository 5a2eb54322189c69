"""The figures of all parts as Markdown."""

from collections.abc import Callable
from typing import Any

SHEET_TFLOPS = 989.0
"""Dense bfloat16 operations of an H100 or H200 per second, from the vendor's data sheets."""

Figures = dict[str, Any]


def markdown(report: Figures) -> str:
    """Return the report as tables; a part that is missing or failed is said to."""
    parts: Figures = report["parts"]
    lines = [
        "# The learner on one GPU",
        "",
        f"`{report['command']}` at {report['commit'] or 'an unknown commit'}; {report['machine']}; "
        + ", ".join(f"{name} {number}" for name, number in report["versions"].items()),
    ]
    peak = parts.get("facts", {}).get("matmul", {}).get("tflop_per_s")
    tables: dict[str, Callable[[Figures], list[str]]] = {
        "facts": _facts,
        "grpo": lambda found: _steps(found, "grpo", peak),
        "conventional": lambda found: _steps(found, "conventional", peak) + _compared(parts, found),
        "attention": _attention,
        "split": lambda found: _steps(found, "split", peak) + _difference(parts, found),
        "sft": lambda found: _steps(found, "sft", peak) + _phases(found.get("phases", []), ("traces", "checkpointing")),
        "profile": _profile,
        "push": _push,
        "plan": _plan,
        "ipc": _ipc,
        "full": lambda found: _phases(found.get("full", []), ("layers", "trained_parameters")),
        "flex": _flex,
    }
    for name, found in parts.items():
        lines += ["", f"## {name}", ""]
        if "error" in found:
            lines += [f"Failed: {found['error']}", ""]
        try:
            lines += tables[name](found)
        except Exception as error:  # a part that was cut short; whatever is missing must not cost the others
            lines += [f"Not all figures are there ({type(error).__name__}: {error})."]
        lines += ["", f"{found.get('wall_s', 0)} s in all."]
    return "\n".join(lines) + "\n"


def table(head: list[str], rows: list[list[Any]]) -> list[str]:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return lines + ["| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |" for row in rows]


def best(rows: list[Figures], **wanted: Any) -> Figures | None:
    """Return the row with the most completions per second among those that have the wanted values."""
    found = [r for r in rows if "completions_per_s" in r and all(r.get(k) == v for k, v in wanted.items())]
    return max(found, key=lambda r: float(r["completions_per_s"]), default=None)


def _facts(found: Figures) -> list[str]:
    rows = [[name, found[name]] for name in found if not isinstance(found[name], (dict, list))]
    for name in ("matmul", "learner_matmul"):
        product = found.get(name, {})
        size = " x ".join(str(product.get(side)) for side in ("rows", "inner", "columns"))
        rows.append([f"matrix product {size}, TFLOP/s", product.get("tflop_per_s", product.get("error"))])
    return table(["fact", "value"], rows + [[name, rate] for name, rate in found.get("copies", {}).items()])


def _steps(found: Figures, name: str, peak: float | None) -> list[str]:
    head = ["way", "checkpointing", "micro-batch", "completions", "s (lowest to highest)", "completions/s"]
    head += ["completion tokens/s", "tokens/s", "MFU, data sheet", "MFU, measured peak", "peak GB", "reserved GB"]
    rows = []
    for row in found.get(name, []):
        size = row.get("size", f"{row.get('questions')} questions")
        cells = [row.get("way", "ours"), "yes" if row["checkpointing"] else "no", size]
        memory = [row.get("peak_gb", "-"), row.get("reserved_gb", "-")]
        if "error" in row:
            rows.append([*cells, row["error"], *["-"] * 6, *memory])
            continue
        rate = row["needed_tflop_per_s"]
        cells += [row["completions"], _spread(row["seconds"]), row["completions_per_s"]]
        cells += [row["completion_tokens_per_s"], row["tokens_per_s"], f"{rate / SHEET_TFLOPS:.3f}"]
        rows.append([*cells, f"{rate / peak:.3f}" if peak else "-", *memory])
    lines = [f"{found['loaded_gb']} GB after loading.", ""] if "loaded_gb" in found else []
    return lines + table(head, rows)


def _compared(parts: Figures, found: Figures) -> list[str]:
    ours, theirs = best(parts.get("grpo", {}).get("grpo", [])), best(found.get("conventional", []))
    if ours is None or theirs is None:
        return []
    ratio = ours["completions_per_s"] / theirs["completions_per_s"]
    lines = ["", f"Best of ours over the best conventional step: {ratio:.2f} times the completions per second."]
    return lines + _difference(parts, found)


def _difference(parts: Figures, found: Figures) -> list[str]:
    mine, other = parts.get("grpo", {}).get("check", []), found.get("check", [])
    if not isinstance(other, list) or len(mine) != len(other):
        return ["", f"Scores could not be compared: {other}"]
    gap = max(abs(a - b) for a, b in zip(mine, other, strict=True))
    return ["", f"Largest difference of log-probabilities to ours: {gap:.4f} nats over {len(mine)} tokens."]


def _attention(found: Figures) -> list[str]:
    head = ["way", "forward ms", "forward and backward ms", "extra GB", "error of output, q, k, v"]
    rows = []
    for row in found.get("whole", []):
        errors = ", ".join(f"{value:.1e}" for value in row.get("errors", {}).values())
        rows.append([row["way"], *_times(row), row.get("extra_gb", "-"), errors or "-"])
    lines = [f"{found.get('tokens')} packed tokens, {found.get('questions')} questions.", "", *table(head, rows)]
    halves = [[row["half"], row["kernel"], *_times(row)] for row in found.get("halves", [])]
    return [*lines, "", *table(["half", "kernel", "forward ms", "forward and backward ms"], halves)]


def _flex(found: Figures) -> list[str]:
    lines = _attention(found)[2:-3]
    return [f"Block mask: {_spread(found['block_mask_ms'])} ms, sparsity {found['sparsity']} %.", "", *lines]


def _times(row: Figures) -> list[str]:
    if "error" in row:
        return [row["error"], "-"]
    return [_spread(row[name]) if name in row else "-" for name in ("forward_ms", "forward_backward_ms")]


def _phases(rows: list[Figures], keys: tuple[str, ...]) -> list[str]:
    names = list(dict.fromkeys(k for row in rows for k, v in row.items() if isinstance(v, dict) and "after_gb" in v))
    head = [*keys, "before", *(f"{name}: after (peak)" for name in names)]
    cells = []
    for row in rows:
        after = [f"{row[n]['after_gb']} ({row[n]['peak_gb']})" if n in row else "-" for n in names]
        cells.append([*(row.get(key) for key in keys), row.get("before_gb", row.get("error", "-")), *after])
    return ["", "Memory by phase, GB:", "", *table(head, cells)] if rows else []


def _profile(found: Figures) -> list[str]:
    step, kernels = found["step"], found.get("kernels", {})
    lines = [
        f"A step of {step['completions']} completions takes {_spread(step['seconds'])} s: {step['completions_per_s']} "
        f"completions/s, {step['needed_tflop_per_s']} needed TFLOP/s.",
        f"Waits for the device in one step: {found.get('synchronisations')}; in the trace {kernels.get('waits')}; "
        f"{kernels.get('launches')} kernels and copies, busy for {kernels.get('busy_ms')} ms; idle share "
        f"{kernels.get('idle_share_unprofiled')} of the step as timed, {kernels.get('idle_share')} of the "
        f"{kernels.get('span_ms')} ms under the profiler.",
        "",
    ]
    lines += table(["waits at"], [[place] for place in found.get("synchronisation_places", [])])
    costs = [[row["name"], row["ms"], row["share"], row["calls"]] for row in kernels.get("costliest", [])]
    lines += ["", *table(["kernel", "ms", "share", "calls"], costs)]
    operators = found.get("operators", {}).get("rows", [])
    return [*lines, "", *table(["operator", "ms", "calls"], [[r["name"], r["ms"], r["calls"]] for r in operators])]


def _push(found: Figures) -> list[str]:
    rows = []
    for row in found.get("staged", []):
        cells = [row.get("error", row.get("seconds")), row.get("gb_per_s", "-"), row.get("peak_gb", "-")]
        rows.append([row["way"], *cells, row.get("allocating_s", "-")])
    head = ["way", "s", "GB/s", "peak GB", "allocating s"]
    return [f"{found['gb']} GB in all; {found.get('equal')}.", "", *table(head, rows)]


def _plan(found: Figures) -> list[str]:
    head = ["stage", "questions", "micro-batch", "checkpointing", "planned GB", "taken GB", "planned over taken"]
    rows = []
    for row in found.get("peaks", []):
        cells = [
            row["stage"],
            row["questions"],
            row["micro_batch_size"] or "all",
            "yes" if row["checkpointing"] else "no",
        ]
        if "error" in row:
            rows.append([*cells, row.get("predicted_gb", "-"), row["error"], "-"])
            continue
        ratio = f"{row['predicted_gb'] / row['measured_gb']:.3f}"
        rows.append([*cells, row["predicted_gb"], row["measured_gb"], ratio])
    return table(head, rows)


def _ipc(found: Figures) -> list[str]:
    if "left_out" in found:
        return [f"Left out: {found['left_out']}."]
    rows = []
    for row in found.get("pushes", []):
        cells = [row.get("error", row.get("seconds")), *(row.get(k, "-") for k in ("gb_per_s", "more_gb", "left_gb"))]
        rows.append([row["bucket_mib"], *cells])
    lines = [f"{found['gb']} GB in all; compared: {found.get('compared')}.", ""]
    return lines + table(["bucket MiB", "s", "GB/s", "more GB of the trainer", "left GB"], rows)


def _spread(value: Figures) -> str:
    return f"{value['median']} ({value['lowest']} to {value['highest']})"
