"""What a run came to, for people."""

from __future__ import annotations

from collections import Counter

from tests.chaos.checker import Evidence, Finding


def as_text(evidence: Evidence, findings: list[Finding]) -> str:
    """Tables of what clients saw, what was done to whom, and which promises were kept."""
    parts = [_clients(evidence), _wounds(evidence), _findings(findings)]
    if evidence.books.errors:
        logged = [f"  {count:5}  {event}" for event, count in evidence.books.errors.most_common(20)]
        parts.append("\n".join(["Logged as errors:", *logged]))
    return "\n\n".join(parts)


def _clients(evidence: Evidence) -> str:
    names = [tenant.name for tenant in evidence.tenants]
    counts = Counter((one.tenant, one.result) for one in evidence.seen)
    results = sorted({result for _, result in counts})
    width = max((len(result) for result in results), default=10) + 2
    rows = ["What clients saw:", " " * (width + 2) + "".join(f"{name:>11}" for name in names)]
    rows += [
        f"  {result:{width}}" + "".join(f"{counts[name, result]:11}" for name in names) for result in results
    ]
    answered = sorted(one.took_s for one in evidence.seen if one.status is not None)
    if answered:
        p50, p99 = answered[len(answered) // 2], answered[len(answered) * 99 // 100]
        rows.append(f"  answered within {p50:.3f} s (p50), {p99:.3f} s (p99), {answered[-1]:.3f} s (all)")
    return "\n".join(rows)


def _wounds(evidence: Evidence) -> str:
    return "\n".join(["What was done:", *(f"  {wound}" for wound in evidence.wounds)])


def _findings(findings: list[Finding]) -> str:
    rows = [f"  {'kept  ' if one.is_kept else 'BROKEN'}  {one.promise}: {one.detail}" for one in findings]
    broken = sum(not one.is_kept for one in findings)
    return "\n".join(["Promises:", *rows, f"{broken} of {len(findings)} broken" if broken else "all kept"])
