# SPDX-License-Identifier: Apache-2.0
"""What urunc keeps on the disk for containers to come: images of root filesystems, and
snapshots."""

from __future__ import annotations

from urunc.metrics.exposition import Family
from urunc.snapshot import store
from urunc.storage import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.config import Config


def families(config: Config) -> list[Family]:
    """Of the cache (docs/storage.md) and the directory of snapshots (docs/warm-start.md)."""
    entries = cache.entries(cache.location(config))
    count = Family("urunc_cache_images", "gauge", "Images in the cache.")
    size = Family("urunc_cache_bytes", "gauge", "What they take on the disk.")
    count.add(len(entries))
    size.add(sum(entry.disk_bytes for entry in entries))
    saved = store.entries(config.get("start.directory"))
    snapshots = Family("urunc_snapshots", "gauge", "Snapshots that containers start from.")
    room = Family("urunc_snapshot_bytes", "gauge", "What they take on the disk.")
    hits = Family("urunc_snapshot_hits", "gauge", "Starts from the snapshots that there are.")
    snapshots.add(len(saved))
    room.add(sum(entry.bytes for entry in saved))
    hits.add(sum(entry.hits for entry in saved))
    return [count, size, snapshots, room, hits]
