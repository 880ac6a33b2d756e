"""When an anytime matcher has to stop: what its stages are expected to take (:mod:`stereopsis.matching.anynet`)."""

from __future__ import annotations

from torch import Tensor

# Arithmetic of the four stages by that of the first, at 1242 x 375, and none of the finish that follows the last one:
# what they are taken to cost until they have run.
ARITHMETIC = (1.0, 0.1, 0.41, 0.37, 0.0)


class StageCosts:
    """Seconds that each stage takes at one input size, learned while it is used.

    A stage that has not run yet is taken to cost the first stage's time by its share of the arithmetic. The first run
    also pays for warming up, so the second replaces it. From then on slower runs count more than faster ones (a stall
    for at most twice the expectation), so that the expectation lies in the upper part of what is seen; and where runs
    differ, twice their mean deviation is kept in hand. A stage that was skipped is trusted a little more each time,
    down to its fastest run and no further: one stall does not lock it out, and one that cannot fit is not tried again
    and again.
    """

    SLOWER, FASTER, TRUST, MARGIN = 0.3, 0.1, 0.98, 2.0
    TRUST_AFTER_WARMUP = 0.9

    def __init__(self, stages: int) -> None:
        self._expected: list[float | None] = [None] * stages
        self._fastest = [float("inf")] * stages
        self._deviation = [0.0] * stages
        self._runs = [0] * stages

    def expected(self, stage: int) -> float:
        """Seconds that a stage (0 is the first) is expected to take; 0 where nothing is known."""
        known = self._expected[stage]
        return self._by_arithmetic(stage) if known is None else known

    def needed(self, *stages: int) -> float:
        """Seconds that these stages will hardly exceed."""
        return sum(self.expected(stage) + self.MARGIN * self._deviation[stage] for stage in stages)

    def measured(self, stage: int, seconds: float) -> None:
        """Learn from a run."""
        known = self._expected[stage]
        if known is None or self._runs[stage] < 2:
            self._fastest[stage] = self._expected[stage] = seconds
        else:
            excess = min(seconds, 2 * known) - known
            self._expected[stage] = known + (self.SLOWER if excess > 0 else self.FASTER) * excess
            self._fastest[stage] = min(self._fastest[stage], seconds)
            self._deviation[stage] += self.FASTER * (abs(excess) - self._deviation[stage])
        self._runs[stage] += 1

    def skipped(self, stage: int) -> None:
        """Learn from not having run: relax towards the fastest run, or the guess where that was the warm-up."""
        known = self._expected[stage]
        if known is not None:
            fastest = self._fastest[stage]
            warm = self._runs[stage] > 1
            floor = fastest if warm else min(fastest, self._by_arithmetic(stage))
            self._expected[stage] = max(floor, (self.TRUST if warm else self.TRUST_AFTER_WARMUP) * known)
            self._deviation[stage] *= self.TRUST

    def _by_arithmetic(self, stage: int) -> float:
        return (self._expected[0] or 0.0) * ARITHMETIC[stage]


def wait_for(result: Tensor) -> None:
    """Wait until an accelerator has computed a tensor: reading one of its values does that."""
    result.flatten()[:1].tolist()
