# SPDX-License-Identifier: Apache-2.0
"""What urunc keeps on the disk for containers to come: images of root filesystems."""

from __future__ import annotations

from urunc.metrics.exposition import Family
from urunc.storage import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.config import Config


def families(config: Config) -> list[Family]:
    """Of the cache (docs/storage.md)."""
    entries = cache.entries(cache.location(config))
    count = Family("urunc_cache_images", "gauge", "Images in the cache.")
    size = Family("urunc_cache_bytes", "gauge", "What they take on the disk.")
    count.add(len(entries))
    size.add(sum(entry.disk_bytes for entry in entries))
    return [count, size]
