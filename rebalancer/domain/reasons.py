"""This module has every reason why an object was skipped, failed, or stays where it is.

A reason has one word, which files, metrics and the API share, and one column that holds it.
Reasons of agents and placement also travel, under the names of the deployed Rust programs'
variants; their words are what `strum` made of these names, and operators query them by hand.
"""

import enum
import re

import attrs


class Column(enum.StrEnum):
    """The column that holds a reason."""

    SKIPPED_REASON = "skipped_reason"  # of an object; the predecessor has the word too
    ERROR = "error"  # of an object; a person must look at its record
    OUTCOME = "outcome"  # of an object that was skipped; the predecessor has no word for it
    WHY = "why"  # of a record in table `remaining`


#: Columns of an object; at most one of them holds a reason.
OF_OBJECTS = (Column.SKIPPED_REASON, Column.ERROR, Column.OUTCOME)


class Remedy(enum.Enum):
    """The kind of further attempt that may copy an object which was not copied."""

    NONE = enum.auto()
    ELSEWHERE = enum.auto()  # another destination
    OTHER_SOURCE = enum.auto()  # another destination, and another copy to read from
    LATER = enum.auto()  # room may come free


@attrs.frozen
class _Meaning:
    """The word of a reason, and the decisions that follow from it."""

    word: str
    column: Column
    remedy: Remedy = Remedy.NONE
    may_come_back: bool = False
    is_gone: bool = False
    is_wish: bool = False


@attrs.frozen
class Reason:
    """A reason why an object was skipped, failed, or stays where it is.

    `name` is the variant as it travels; `code` is set for `HTTPStatusCode` only.  A name that
    nobody knows is kept as it came, never replaced by a default.  A reason of our own
    (`is_own`) never travels, and its name is its word: no agent can send one.
    """

    name: str
    code: int | None = None
    is_own: bool = False

    @property
    def _meaning(self) -> _Meaning:
        if self.is_own:
            return _OWN.get(self.name) or _Meaning(self.name, Column.OUTCOME)
        return _TRAVELLING.get(self.name) or _UNHEARD

    @property
    def is_known(self) -> bool:
        """Return whether a column has a word for this reason."""
        if self.code is not None:
            return self.name == HTTP_STATUS_CODE and 0 <= self.code < 1000
        return self.name in _OWN if self.is_own else self.name in _WORDS

    @property
    def word(self) -> str:
        """Return the spelling in files and in the API; of an unknown reason its name."""
        if self.code is not None:
            return f"{{http_status_code:{self.code}}}"
        return self.name if self.is_own else _WORDS.get(self.name, self.name)

    @property
    def column(self) -> Column:
        """Return the column that holds this reason, or `UNKNOWN` in its place."""
        return self._meaning.column if self.is_known else Column.OUTCOME

    @property
    def label(self) -> str:
        """Return the spelling in metrics, which has no code, as in the deployed programs.

        There are no more labels than known reasons.
        """
        if not self.is_known:
            return UNKNOWN.word
        return "http_status_code" if self.code is not None else self.word

    @property
    def remedy(self) -> Remedy:
        """Return what may help an object that was not copied for this reason.

        A complaint about a destination or its agent need not be true of another one, whether its
        words are known or not.
        """
        return self._meaning.remedy

    @property
    def may_come_back(self) -> bool:
        """Return whether the destination was away, perhaps for a restart: waiting may help."""
        return self._meaning.may_come_back

    @property
    def is_gone(self) -> bool:
        """Return whether the record did not name the evacuated node any more."""
        return self._meaning.is_gone

    @property
    def is_wish(self) -> bool:
        """Return whether the operator wants the object left alone, however it changes."""
        return self._meaning.is_wish

    def __str__(self) -> str:
        return self.word


# --- reasons that travel -----------------------------------------------------------------------

HTTP_STATUS_CODE = "HTTPStatusCode"
#: The meaning of a name that nobody knows: another destination may do better.
_UNHEARD = _Meaning("", Column.OUTCOME, Remedy.ELSEWHERE)
#: Travelling name -> meaning.
_TRAVELLING: dict[str, _Meaning] = {}


def _travelling(
    name: str, word: str, remedy: Remedy = Remedy.ELSEWHERE, *, may_come_back: bool = False
) -> Reason:
    _TRAVELLING[name] = _Meaning(word, Column.SKIPPED_REASON, remedy, may_come_back)
    return Reason(name)


# Strum's snake_case has no underscore before a digit and keeps runs of capitals together.
AGENT_FS_ERROR = _travelling("AgentFSError", "agent_fs_error")
AGENT_ASSIGNMENT_NO_ENT = _travelling("AgentAssignmentNoEnt", "agent_assignment_no_ent")
AGENT_BUSY = _travelling("AgentBusy", "agent_busy", may_come_back=True)
ASSIGNMENT_ERROR = _travelling("AssignmentError", "assignment_error")
ASSIGNMENT_MISMATCH = _travelling("AssignmentMismatch", "assignment_mismatch")
ASSIGNMENT_REJECTED = _travelling("AssignmentRejected", "assignment_rejected")
DESTINATION_INSUFFICIENT_SPACE = _travelling(
    "DestinationInsufficientSpace", "destination_insufficient_space", Remedy.LATER
)
DESTINATION_UNREACHABLE = _travelling(
    "DestinationUnreachable", "destination_unreachable", may_come_back=True
)
OBJECT_ALREADY_ON_DEST_SHARK = _travelling(
    "ObjectAlreadyOnDestShark", "object_already_on_dest_shark", Remedy.NONE
)
OBJECT_ALREADY_IN_DATACENTER = _travelling(
    "ObjectAlreadyInDatacenter", "object_already_in_datacenter", Remedy.NONE
)
# A fault of the copy that was read, or of the way to it: the destination is not to blame, but a
# destination elsewhere has another way to it.
MD5_MISMATCH = _travelling("MD5Mismatch", "md5_mismatch", Remedy.OTHER_SOURCE)
NETWORK_ERROR = _travelling("NetworkError", "network_error", Remedy.OTHER_SOURCE)
SOURCE_OTHER_ERROR = _travelling("SourceOtherError", "source_other_error", Remedy.OTHER_SOURCE)
SOURCE_IS_EVAC_SHARK = _travelling("SourceIsEvacShark", "source_is_evac_shark", Remedy.OTHER_SOURCE)

#: Travelling name -> word, of the reasons that have no code.
_WORDS = {name: meaning.word for name, meaning in _TRAVELLING.items()}
_TRAVELLING[HTTP_STATUS_CODE] = _Meaning("", Column.SKIPPED_REASON, Remedy.OTHER_SOURCE)


def http_status_code(code: int) -> Reason:
    """Return the reason that the source answered `code` instead of 200."""
    return Reason(HTTP_STATUS_CODE, code)


# --- reasons of our own ------------------------------------------------------------------------

#: Word -> meaning.
_OWN: dict[str, _Meaning] = {}


def _own(word: str, column: Column, *, is_gone: bool = False, is_wish: bool = False) -> Reason:
    _OWN[word] = _Meaning(word, column, is_gone=is_gone, is_wish=is_wish)
    return Reason(word, is_own=True)


BAD_MORAY_CLIENT = _own("bad_moray_client", Column.ERROR)
BAD_MORAY_OBJECT = _own("bad_moray_object", Column.ERROR)
BAD_MANTA_OBJECT = _own("bad_manta_object", Column.ERROR)
BAD_SHARD_NUMBER = _own("bad_shard_number", Column.ERROR)
DUPLICATE_SHARK = _own("duplicate_shark", Column.ERROR)
INTERNAL_ERROR = _own("internal_error", Column.ERROR)
METADATA_UPDATE_FAILED = _own("metadata_update_failed", Column.ERROR)
MISSING_SHARKS = _own("missing_sharks", Column.ERROR)
BAD_CONTENT_LENGTH = _own("bad_content_length", Column.ERROR)

# A user's write won.
DELETED = _own("deleted", Column.OUTCOME, is_gone=True)
OVERWRITTEN = _own("overwritten", Column.OUTCOME, is_gone=True)
MOVED_ELSEWHERE = _own("moved_elsewhere", Column.OUTCOME, is_gone=True)
#: The key has one of the operator's `exclude_key_prefixes`.
EXCLUDED = _own("excluded", Column.OUTCOME, is_wish=True)
#: The job was cancelled before the object had an assignment.
CANCELLED = _own("cancelled", Column.OUTCOME)
#: The agent of no destination takes bucket objects: newer agents will do.
AGENT_LACKS_V2 = _own("agent_lacks_v2", Column.OUTCOME)
#: The records of the object changed each time that its copies were compared with them.
CHANGING = _own("changing", Column.OUTCOME)
#: The object is a bucket object, which the operator wants counted only.
BUCKETS_UPDATE_OFF = _own("buckets_update_off", Column.OUTCOME)
#: The object is a part of a multipart upload that goes on: its parts must stay beside each other.
ACTIVE_UPLOAD = _own("active_upload", Column.OUTCOME)
#: For these, by their words, an object is left where it is, though it has room elsewhere.
LEFT = frozenset(one.word for one in (EXCLUDED, BUCKETS_UPDATE_OFF, ACTIVE_UPLOAD))
#: Stands for a travelling reason that nobody knows; its name is kept beside it.
UNKNOWN = _own("unknown_reason", Column.OUTCOME)

#: The record is an upload's directory: its object will be written to the evacuated node.
UPLOAD_IN_PROGRESS = _own("upload_in_progress", Column.WHY)
#: No round was left to move the object.
FOUND_TOO_LATE = _own("found_too_late", Column.WHY)

_CODE = re.compile(r"\{http_status_code:(0|[1-9][0-9]{0,2})\}")
_BY_WORD = {
    **{word: Reason(name) for name, word in _WORDS.items()},
    **{word: Reason(word, is_own=True) for word in _OWN},
}


def words_of(column: Column) -> frozenset[str]:
    """Return the words that `column` may hold, without those of status codes."""
    own = {word for word, meaning in _OWN.items() if meaning.column is column}
    return frozenset(own | set(_WORDS.values() if column is Column.SKIPPED_REASON else ()))


def read_word(word: str | None) -> Reason | None:
    """Return the reason that a column holds; one that nobody knows means nothing to us."""
    if word is None:
        return None
    if code := _CODE.fullmatch(word):
        return http_status_code(int(code[1]))
    return _BY_WORD.get(word) or Reason(word, is_own=True)
