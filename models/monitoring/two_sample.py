"""Is a share larger in one stream than in another, by more than a margin? Looked at all the time.

An e-process of two Bernoulli streams: a number that, while the share of `b` exceeds that of `a` by
no more than the margin, is expected to be 1 at most at any time. So by Ville's inequality the
chance that it *ever* reaches 1/alpha is alpha at most, however often one looks and whenever one
stops.

The construction is that of Turner, Ly and Grunwald ("Generic E-variables for exact sequential
k-sample tests that allow for optional stopping", J. Stat. Plan. Inference 230, 2024,
arXiv:2106.02693), with the margin of Turner and Grunwald ("Exact anytime-valid confidence intervals
for contingency tables and beyond", Stat. Probab. Lett. 198, 2023, arXiv:2203.09785): a block of
outcomes is multiplied by its likelihood under an alternative (ta, tb) that the past has chosen,
over that under (s, s + margin), where s is nearest to the alternative in Kullback-Leibler
divergence. Why that holds for blocks of any sizes n and m, and for all shares below the margin: if
the true shares are qa and qb, an outcome's factor has the expectation A(qa) or B(qb), linear in q,
and 1 at s. On the line qb = qa + margin, n log A + m log B is concave, 0 at s, and stationary there
because s is nearest; so it is never above 0. And as ta < s and tb > s + margin, A falls and B rises
with q, so a smaller qb, or a larger qa, makes it only smaller.

It takes the outcomes of a stream to be independent, with a share that may change with time in both
streams alike only between blocks.
"""

from __future__ import annotations

import math

from pydantic import BaseModel

# Outcomes of each kind that each stream is taken to have had before the first: Krichevsky and
# Trofimov's estimator, which keeps shares off 0 and 1.
_PRIOR = 0.5
_BISECTIONS = 60


class Stream(BaseModel):
    """Outcomes so far: how many, and how many were of the kind that is counted."""

    count: int = 0
    hits: int = 0

    @property
    def share(self) -> float:
        """Estimated, in (0, 1)."""
        return (self.hits + _PRIOR) / (self.count + 2 * _PRIOR)


class TwoSample(BaseModel):
    """Evidence that the share in `b` is above that in `a` by more than `margin`, 0..1.

    log_e: natural logarithm of the e-value. Independent streams' are added up: the product of
    their e-values is one.
    """

    margin: float
    a: Stream = Stream()
    b: Stream = Stream()
    log_e: float = 0.0

    def add(self, a: Stream, b: Stream) -> None:
        """Take in a block: the outcomes since the last one."""
        self.log_e += self._log_factor(a, b)
        for stream, new in ((self.a, a), (self.b, b)):
            stream.count += new.count
            stream.hits += new.hits

    def _log_factor(self, a: Stream, b: Stream) -> float:
        share_a, share_b = self.a.share, self.b.share
        if not a.count or not b.count or share_b - share_a <= self.margin:
            return 0.0  # the past speaks for no harm: nothing is bet on it
        null_a = nearest(share_a, share_b, self.margin, a.count, b.count)
        null_b = null_a + self.margin
        return (
            a.hits * math.log(share_a / null_a)
            + (a.count - a.hits) * math.log((1 - share_a) / (1 - null_a))
            + b.hits * math.log(share_b / null_b)
            + (b.count - b.hits) * math.log((1 - share_b) / (1 - null_b))
        )


def nearest(share_a: float, share_b: float, margin: float, n: int, m: int) -> float:
    """s in (0, 1 - margin), of which n KL(share_a, s) + m KL(share_b, s + margin) is smallest. It
    is convex, so its derivative has one root."""
    low, high = max(share_a, 0.0), share_b - margin
    for _ in range(_BISECTIONS):
        s = (low + high) / 2
        t = s + margin
        slope = n * (s - share_a) / (s * (1 - s)) + m * (t - share_b) / (t * (1 - t))
        low, high = (low, s) if slope > 0 else (s, high)
    return (low + high) / 2
