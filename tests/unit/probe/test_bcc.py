"""What bcc's compiler is told of a kernel, by the kernel's own headers."""

from __future__ import annotations

from pathlib import Path

import pytest

from prtrace.probe.bcc import _shape

# Of linux-headers-5.10.0-32-common, 5.15 and 6.1.0-56-common.
_DECLARED = {
    "5.10": """extern void blk_execute_rq(struct request_queue *, struct gendisk *,
                          struct request *, int);
extern void blk_execute_rq_nowait(struct request_queue *, struct gendisk *,
                                  struct request *, int, rq_end_io_fn *);
""",
    "5.15": """void blk_execute_rq(struct gendisk *bd_disk, struct request *rq, int at_head);
void blk_execute_rq_nowait(struct gendisk *bd_disk, struct request *rq, int at_head,
                           rq_end_io_fn *end_io);
""",
    "6.1": """void blk_execute_rq_nowait(struct request *rq, bool at_head);
blk_status_t blk_execute_rq(struct request *rq, bool at_head);
typedef void (rq_end_io_fn)(struct request *, blk_status_t);
""",
}


@pytest.mark.parametrize(
    ("release", "argument", "nested"), [("5.10", 2, 1), ("5.15", 1, 1), ("6.1", 0, 0)]
)
def test_where_a_request_is_and_who_sees_it_once(
    tmp_path: Path, release: str, argument: int, nested: int
) -> None:
    header = tmp_path / "include" / "linux" / "blkdev.h"
    header.parent.mkdir(parents=True)
    header.write_text(_DECLARED[release])
    flags = _shape(tmp_path)
    assert f"-DPR_REQUEST_ARGUMENT={argument}" in flags
    assert f"-DPR_NESTED={nested}" in flags
