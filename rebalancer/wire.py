"""This module has the names of `agent_protocol` and `converter`, until all importers name those."""

from rebalancer.agent_protocol import (
    COMPLETE,
    MAX_TASKS,
    PENDING,
    Assignment,
    AssignmentReport,
    AssignmentStats,
    Dialect,
    PostForm,
    Task,
    TaskState,
    TaskStatus,
    _converter,
    assignment_body,
    detect_dialect,
    failed,
    read_assignment,
    read_report,
    report_to_wire,
    stats_to_wire,
    status_to_wire,
)
from rebalancer.converter import MAX_VALUES, FieldError, parse_json, parse_toml
from rebalancer.jsontext import is_text

structure = _converter.structure

__all__ = [
    "COMPLETE",
    "MAX_TASKS",
    "MAX_VALUES",
    "PENDING",
    "Assignment",
    "AssignmentReport",
    "AssignmentStats",
    "Dialect",
    "FieldError",
    "PostForm",
    "Task",
    "TaskState",
    "TaskStatus",
    "assignment_body",
    "detect_dialect",
    "failed",
    "is_text",
    "parse_json",
    "parse_toml",
    "read_assignment",
    "read_report",
    "report_to_wire",
    "stats_to_wire",
    "status_to_wire",
    "structure",
]
