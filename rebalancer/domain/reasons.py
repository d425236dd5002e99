"""This module tells why an object was skipped or failed, by names on the wire and in files.

The wire names are the variants of the deployed Rust programs; the column names are what
their `strum` derive made of them, and operators query those by hand.
"""

import attrs


@attrs.frozen
class Reason:
    """One reason for skipping an object.

    `name` is the variant as it travels; `code` is set for `HTTPStatusCode` only.  A name we do
    not know is kept as it came, never replaced by a default.
    """

    name: str
    code: int | None = None

    @property
    def is_known(self) -> bool:
        """Tell whether the deployed programs know this reason too, and their column takes it."""
        if self.code is not None:
            return self.name == HTTP_STATUS_CODE and 0 <= self.code < 1000
        return self.name in _COLUMNS

    @property
    def column(self) -> str:
        """Return the spelling in database columns."""
        if self.code is not None:
            return f"{{http_status_code:{self.code}}}"
        return _COLUMNS.get(self.name, self.name)

    @property
    def label(self) -> str:
        """Return the spelling in metrics, of which there are not more than there are known reasons.

        As in the deployed programs' it is without the code.
        """
        if not self.is_known:
            return UNKNOWN
        return "http_status_code" if self.code is not None else self.column

    def __str__(self) -> str:
        return self.column


HTTP_STATUS_CODE = "HTTPStatusCode"

# What the column `outcome` says of objects that were skipped for none of these reasons.
#: At the operator's wish: its key has one of `exclude_key_prefixes`.
EXCLUDED = "excluded"
#: The job was cancelled before the object had an assignment.
CANCELLED = "cancelled"
#: Stands for whatever reason nobody knows; its text is kept beside it.
UNKNOWN = "unknown_reason"

AGENT_FS_ERROR = Reason("AgentFSError")
AGENT_ASSIGNMENT_NO_ENT = Reason("AgentAssignmentNoEnt")
AGENT_BUSY = Reason("AgentBusy")
ASSIGNMENT_ERROR = Reason("AssignmentError")
ASSIGNMENT_MISMATCH = Reason("AssignmentMismatch")
ASSIGNMENT_REJECTED = Reason("AssignmentRejected")
DESTINATION_INSUFFICIENT_SPACE = Reason("DestinationInsufficientSpace")
DESTINATION_UNREACHABLE = Reason("DestinationUnreachable")
MD5_MISMATCH = Reason("MD5Mismatch")
NETWORK_ERROR = Reason("NetworkError")
OBJECT_ALREADY_ON_DEST_SHARK = Reason("ObjectAlreadyOnDestShark")
OBJECT_ALREADY_IN_DATACENTER = Reason("ObjectAlreadyInDatacenter")
SOURCE_OTHER_ERROR = Reason("SourceOtherError")
SOURCE_IS_EVAC_SHARK = Reason("SourceIsEvacShark")


def http_status_code(code: int) -> Reason:
    """Return the reason that the source answered `code` instead of 200."""
    return Reason(HTTP_STATUS_CODE, code)


# Strum's snake_case has no underscore before a digit and keeps runs of capitals together.
_COLUMNS = {
    AGENT_FS_ERROR.name: "agent_fs_error",
    AGENT_ASSIGNMENT_NO_ENT.name: "agent_assignment_no_ent",
    AGENT_BUSY.name: "agent_busy",
    ASSIGNMENT_ERROR.name: "assignment_error",
    ASSIGNMENT_MISMATCH.name: "assignment_mismatch",
    ASSIGNMENT_REJECTED.name: "assignment_rejected",
    DESTINATION_INSUFFICIENT_SPACE.name: "destination_insufficient_space",
    DESTINATION_UNREACHABLE.name: "destination_unreachable",
    MD5_MISMATCH.name: "md5_mismatch",
    NETWORK_ERROR.name: "network_error",
    OBJECT_ALREADY_ON_DEST_SHARK.name: "object_already_on_dest_shark",
    OBJECT_ALREADY_IN_DATACENTER.name: "object_already_in_datacenter",
    SOURCE_OTHER_ERROR.name: "source_other_error",
    SOURCE_IS_EVAC_SHARK.name: "source_is_evac_shark",
}
