"""This module has the exceptions that this program raises on purpose, and draws all of them.

An exception stands here if several packages know it.  One that a single protocol or layer raises
and its callers catch is defined there; the drawing names its module.

    Exception
      RebalancerError
        ConfigError
        RequestError
          BadRequest
            TooLarge
          BodyTooLarge
          Conflict
          Damaged
          Forbidden
          NotFound
          Refused
          Unavailable
          Unprocessable
        PeerError
          PeerUnreachable
            ClosedByServer          peers.buckets.mdapi
          PeerRefused
            PeerWantsToken
          PeerMalformed
            FastError               peers.moray.fast
              BadCrc                peers.moray.fast
              BadId                 peers.moray.fast
              BadLength             peers.moray.fast
              BadPayload            peers.moray.fast
              BadStatus             peers.moray.fast
              BadType               peers.moray.fast
              BadVersion            peers.moray.fast
              Truncated             peers.moray.fast
          MetadataError             peers.metadata
            MdapiError              peers.buckets.messages
            MorayError              peers.moray.errors
        StoreError
          StoreBusy
          BrokenFile                agent.state.statefile
          NewerFile                 agent.state.statefile
        IllegalTransition
        JobFailed
        AdmError                    adm.client
      ValueError
        FieldError                  converter
        UnusableRecord              domain.objects
      AnswerFailed                  peers.connections
      ConnectionFailed              peers.connections
      PullFailure                   agent.transfer.sources.engine
      LocalFailure                  agent.transfer.disk.objects
      Gone                          serving.connection
      Refusal                       serving.connection
      _Failed                       manager.actions.verify.reader
"""

from collections.abc import Iterator


class RebalancerError(Exception):
    """Base of all of them; its text is meant for the operator."""

    #: The exit code of a command that it ends.
    exit_code = 1


class ConfigError(RebalancerError):
    """A configuration that cannot be used: says which key, its value and what was expected.

    `faults` are all that are wrong with a file, where its text could be read.
    """

    def __init__(self, text: str, faults: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.faults = faults


class RequestError(RebalancerError):
    """A request we answer with an error; the text becomes the answer's message."""

    status = 400


class BadRequest(RequestError):
    """The request is malformed."""


class Forbidden(RequestError):
    """The request is understood, but not allowed in the present state."""

    status = 403


class NotFound(RequestError):
    """The thing that was asked for does not exist."""

    status = 404


class Conflict(RequestError):
    """The request conflicts with a thing that exists already, or with its state."""

    status = 409


class TooLarge(BadRequest):
    """The request has more in it than is taken at once."""

    status = 413


class BodyTooLarge(RequestError):
    """The request's body is larger than any that is taken, so it was not read."""

    status = 413


class Unprocessable(RequestError):
    """The request is well-formed, but asks for something that cannot be done."""

    status = 422


class Refused(RequestError):
    """The operator's configuration forbids it (the predecessor answered 500 here)."""

    status = 500


class Damaged(RequestError):
    """The file that the answer would be made of cannot be read, and waiting does not mend it."""

    status = 500


class Unavailable(RequestError):
    """The request cannot be answered now: it may be tried after `retry_after_s` seconds."""

    status = 503
    retry_after_s = 10


class PeerError(RebalancerError):
    """Another service did not do what we asked; `is_transient` tells whether it may later."""

    is_transient = True


class PeerUnreachable(PeerError):
    """A peer has not answered: no connection was made, it broke, or time ran out.

    `was_sent` is false if there was no connection, so that what was asked cannot have happened.
    """

    was_sent = True


class PeerRefused(PeerError):
    """The service answered, and the answer was no."""

    is_transient = False


class PeerWantsToken(PeerRefused):
    """The service wants another token than ours, so it has done nothing: tokens are renewed."""

    is_transient = True
    was_sent = False


class PeerMalformed(PeerError):
    """The service answered something its protocol does not allow."""

    is_transient = False


class StoreError(RebalancerError):
    """A state file cannot be read or written, or is not ours."""


class StoreBusy(StoreError):
    """A state file cannot be used at the moment; waiting may mend it."""


class IllegalTransition(RebalancerError):
    """Someone asked for a change of state that the tables do not have: a bug."""


class JobFailed(RebalancerError):
    """A job cannot go on; the text is stored with it and shown to the operator."""


def leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    """Yield the exceptions themselves in a group of them and of groups."""
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from leaves(exc)
        else:
            yield exc
