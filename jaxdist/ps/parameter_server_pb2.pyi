from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Caller(_message.Message):
    __slots__ = ("run", "incarnation", "session")
    RUN_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    run: str
    incarnation: int
    session: int
    def __init__(self, run: _Optional[str] = ..., incarnation: _Optional[int] = ..., session: _Optional[int] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "shape", "dtype")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ...) -> None: ...

class Layout(_message.Message):
    __slots__ = ("params", "stats")
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    params: _containers.RepeatedCompositeFieldContainer[Tensor]
    stats: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, params: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., stats: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("reserve", "identity")
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    reserve: str
    identity: str
    def __init__(self, reserve: _Optional[str] = ..., identity: _Optional[str] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("index", "addresses", "run", "incarnation", "version", "boot", "snapshots", "failure", "signature")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    index: int
    addresses: _containers.RepeatedScalarFieldContainer[str]
    run: str
    incarnation: int
    version: int
    boot: str
    snapshots: _containers.RepeatedScalarFieldContainer[int]
    failure: str
    signature: str
    def __init__(self, index: _Optional[int] = ..., addresses: _Optional[_Iterable[str]] = ..., run: _Optional[str] = ..., incarnation: _Optional[int] = ..., version: _Optional[int] = ..., boot: _Optional[str] = ..., snapshots: _Optional[_Iterable[int]] = ..., failure: _Optional[str] = ..., signature: _Optional[str] = ...) -> None: ...

class BeginRequest(_message.Message):
    __slots__ = ("run", "header", "signature", "settings", "ready", "reserve")
    RUN_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    run: str
    header: bytes
    signature: str
    settings: str
    ready: bool
    reserve: str
    def __init__(self, run: _Optional[str] = ..., header: _Optional[bytes] = ..., signature: _Optional[str] = ..., settings: _Optional[str] = ..., ready: _Optional[bool] = ..., reserve: _Optional[str] = ...) -> None: ...

class LoadRequest(_message.Message):
    __slots__ = ("run", "what", "offset", "total", "checksum", "data")
    RUN_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    run: str
    what: str
    offset: int
    total: int
    checksum: int
    data: bytes
    def __init__(self, run: _Optional[str] = ..., what: _Optional[str] = ..., offset: _Optional[int] = ..., total: _Optional[int] = ..., checksum: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("worker", "signature", "header", "addresses", "phase", "process")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    worker: int
    signature: str
    header: bytes
    addresses: _containers.RepeatedScalarFieldContainer[str]
    phase: int
    process: str
    def __init__(self, worker: _Optional[int] = ..., signature: _Optional[str] = ..., header: _Optional[bytes] = ..., addresses: _Optional[_Iterable[str]] = ..., phase: _Optional[int] = ..., process: _Optional[str] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("caller", "settings", "progress")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    settings: str
    progress: Progress
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., settings: _Optional[str] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("version", "examples_seen", "sums")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_SEEN_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    version: int
    examples_seen: int
    sums: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, version: _Optional[int] = ..., examples_seen: _Optional[int] = ..., sums: _Optional[_Iterable[float]] = ...) -> None: ...

class ClaimRequest(_message.Message):
    __slots__ = ("caller", "number")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    number: int
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., number: _Optional[int] = ...) -> None: ...

class ClaimReply(_message.Message):
    __slots__ = ("outcome", "claim", "bounds")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        GIVEN: _ClassVar[ClaimReply.Outcome]
        WAIT: _ClassVar[ClaimReply.Outcome]
        DONE: _ClassVar[ClaimReply.Outcome]
    GIVEN: ClaimReply.Outcome
    WAIT: ClaimReply.Outcome
    DONE: ClaimReply.Outcome
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    outcome: ClaimReply.Outcome
    claim: int
    bounds: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, outcome: _Optional[_Union[ClaimReply.Outcome, str]] = ..., claim: _Optional[int] = ..., bounds: _Optional[_Iterable[int]] = ...) -> None: ...

class PushRequest(_message.Message):
    __slots__ = ("caller", "header", "claim", "offset", "total", "checksum", "commit", "then", "data")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    THEN_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    header: bytes
    claim: int
    offset: int
    total: int
    checksum: int
    commit: Commit
    then: Pulling
    data: bytes
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., header: _Optional[bytes] = ..., claim: _Optional[int] = ..., offset: _Optional[int] = ..., total: _Optional[int] = ..., checksum: _Optional[int] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ..., then: _Optional[_Union[Pulling, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("pulled_version", "learning_rate", "sums", "skip", "momentum_cut")
    PULLED_VERSION_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_CUT_FIELD_NUMBER: _ClassVar[int]
    pulled_version: int
    learning_rate: float
    sums: _containers.RepeatedScalarFieldContainer[float]
    skip: bool
    momentum_cut: float
    def __init__(self, pulled_version: _Optional[int] = ..., learning_rate: _Optional[float] = ..., sums: _Optional[_Iterable[float]] = ..., skip: _Optional[bool] = ..., momentum_cut: _Optional[float] = ...) -> None: ...

class PushReply(_message.Message):
    __slots__ = ("version", "staleness")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    version: int
    staleness: int
    def __init__(self, version: _Optional[int] = ..., staleness: _Optional[int] = ...) -> None: ...

class Pulling(_message.Message):
    __slots__ = ("min_version", "start", "ahead", "claim", "pin", "what", "offset", "version", "pushed")
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PUSHED_FIELD_NUMBER: _ClassVar[int]
    min_version: int
    start: bool
    ahead: int
    claim: int
    pin: str
    what: str
    offset: int
    version: int
    pushed: int
    def __init__(self, min_version: _Optional[int] = ..., start: _Optional[bool] = ..., ahead: _Optional[int] = ..., claim: _Optional[int] = ..., pin: _Optional[str] = ..., what: _Optional[str] = ..., offset: _Optional[int] = ..., version: _Optional[int] = ..., pushed: _Optional[int] = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("caller", "pulling")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    PULLING_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    pulling: Pulling
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., pulling: _Optional[_Union[Pulling, _Mapping]] = ...) -> None: ...

class PullReply(_message.Message):
    __slots__ = ("granted", "version", "total", "checksum", "clock_lead", "push", "progress", "header", "data")
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    CLOCK_LEAD_FIELD_NUMBER: _ClassVar[int]
    PUSH_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    granted: bool
    version: int
    total: int
    checksum: int
    clock_lead: int
    push: PushReply
    progress: Progress
    header: bytes
    data: bytes
    def __init__(self, granted: _Optional[bool] = ..., version: _Optional[int] = ..., total: _Optional[int] = ..., checksum: _Optional[int] = ..., clock_lead: _Optional[int] = ..., push: _Optional[_Union[PushReply, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., header: _Optional[bytes] = ..., data: _Optional[bytes] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("caller", "away", "events_from", "evaluations_from")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    AWAY_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FROM_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FROM_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    away: bool
    events_from: int
    evaluations_from: int
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., away: _Optional[bool] = ..., events_from: _Optional[int] = ..., evaluations_from: _Optional[int] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("progress", "events", "evaluations", "evaluator", "reports")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    EVALUATOR_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    events: _containers.RepeatedScalarFieldContainer[str]
    evaluations: _containers.RepeatedScalarFieldContainer[str]
    evaluator: bool
    reports: str
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., events: _Optional[_Iterable[str]] = ..., evaluations: _Optional[_Iterable[str]] = ..., evaluator: _Optional[bool] = ..., reports: _Optional[str] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("caller", "name", "unpin")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNPIN_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    name: str
    unpin: bool
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., name: _Optional[str] = ..., unpin: _Optional[bool] = ...) -> None: ...

class PinReply(_message.Message):
    __slots__ = ("progress", "pending", "slots")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    pending: _containers.RepeatedScalarFieldContainer[int]
    slots: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., pending: _Optional[_Iterable[int]] = ..., slots: _Optional[_Iterable[str]] = ...) -> None: ...

class PostRequest(_message.Message):
    __slots__ = ("caller", "text")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    text: str
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., text: _Optional[str] = ...) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("caller",)
    CALLER_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ...) -> None: ...

class EndRequest(_message.Message):
    __slots__ = ("run", "code", "text", "phase_over", "reserve", "identity")
    RUN_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PHASE_OVER_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    run: str
    code: int
    text: str
    phase_over: bool
    reserve: str
    identity: str
    def __init__(self, run: _Optional[str] = ..., code: _Optional[int] = ..., text: _Optional[str] = ..., phase_over: _Optional[bool] = ..., reserve: _Optional[str] = ..., identity: _Optional[str] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ("kind", "version", "claims", "learning_rate", "stats_weight", "momentum_cut", "pin", "committed", "clip_global_norm", "part")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UPDATE: _ClassVar[Operation.Kind]
        PIN: _ClassVar[Operation.Kind]
        UNPIN: _ClassVar[Operation.Kind]
        SNAPSHOT: _ClassVar[Operation.Kind]
        FORGET: _ClassVar[Operation.Kind]
    UPDATE: Operation.Kind
    PIN: Operation.Kind
    UNPIN: Operation.Kind
    SNAPSHOT: Operation.Kind
    FORGET: Operation.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    STATS_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_CUT_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    CLIP_GLOBAL_NORM_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    kind: Operation.Kind
    version: int
    claims: _containers.RepeatedScalarFieldContainer[int]
    learning_rate: float
    stats_weight: float
    momentum_cut: float
    pin: str
    committed: int
    clip_global_norm: float
    part: float
    def __init__(self, kind: _Optional[_Union[Operation.Kind, str]] = ..., version: _Optional[int] = ..., claims: _Optional[_Iterable[int]] = ..., learning_rate: _Optional[float] = ..., stats_weight: _Optional[float] = ..., momentum_cut: _Optional[float] = ..., pin: _Optional[str] = ..., committed: _Optional[int] = ..., clip_global_norm: _Optional[float] = ..., part: _Optional[float] = ...) -> None: ...

class ApplyRequest(_message.Message):
    __slots__ = ("run", "incarnation", "first", "operations")
    RUN_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    run: str
    incarnation: int
    first: int
    operations: _containers.RepeatedCompositeFieldContainer[Operation]
    def __init__(self, run: _Optional[str] = ..., incarnation: _Optional[int] = ..., first: _Optional[int] = ..., operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("run", "incarnation", "version", "header")
    RUN_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    run: str
    incarnation: int
    version: int
    header: bytes
    def __init__(self, run: _Optional[str] = ..., incarnation: _Optional[int] = ..., version: _Optional[int] = ..., header: _Optional[bytes] = ...) -> None: ...

class SumSquaresRequest(_message.Message):
    __slots__ = ("run", "incarnation", "version", "index", "squares")
    RUN_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SQUARES_FIELD_NUMBER: _ClassVar[int]
    run: str
    incarnation: int
    version: int
    index: int
    squares: float
    def __init__(self, run: _Optional[str] = ..., incarnation: _Optional[int] = ..., version: _Optional[int] = ..., index: _Optional[int] = ..., squares: _Optional[float] = ...) -> None: ...

class SumSquaresReply(_message.Message):
    __slots__ = ("whole", "squares")
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    SQUARES_FIELD_NUMBER: _ClassVar[int]
    whole: bool
    squares: float
    def __init__(self, whole: _Optional[bool] = ..., squares: _Optional[float] = ...) -> None: ...
