"""The settings of an evaluation: when the cache is compressed."""

from __future__ import annotations

QUERY_AWARE, QUERY_AGNOSTIC = "query_aware", "query_agnostic"
SETTINGS = {
    QUERY_AWARE: "the question is known when the cache is compressed",
    QUERY_AGNOSTIC: "the context is compressed before the question is seen",
}
