//! Errors of librdkafka and of brokers, in the words of the contract.

use std::fmt;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use strait_core::{Error, Kind, Name, codes};

/// The error of a broker or of the client for `what`, such as "declaring the topic `orders`".
pub(crate) fn fault(what: impl fmt::Display, error: KafkaError) -> Error {
    match (code_of(&error), &error) {
        (Some(code), _) => coded(what, code).caused_by(error),
        // The value may be a secret.
        (None, KafkaError::ClientConfig(_, why, name, _)) => {
            let text = format!("{what}: the setting `{name}` cannot be used: {why}");
            Error::new(Kind::Config, text)
        }
        (None, KafkaError::ClientCreation(why)) => {
            Error::new(Kind::Config, format!("{what}: {why}"))
        }
        (None, _) => Error::new(Kind::Unexpected, format!("{what}: {error}")).caused_by(error),
    }
}

fn code_of(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// The same where only the code is known.
pub(crate) fn coded(what: impl fmt::Display, code: Code) -> Error {
    let (kind, name) = class(code);
    let mut error = Error::new(kind, format!("{what}: {code}"));
    if let Some(name) = name {
        error = error.code(name);
    }
    match kind {
        Kind::Unavailable => error.next("the engine goes on trying; its health says how it is"),
        Kind::Denied => error.next(
            "give the user of this connection the right (Kafka's ACLs), or check user and password",
        ),
        _ => error,
    }
}

fn class(code: Code) -> (Kind, Option<&'static str>) {
    use Code::*;
    match code {
        UnknownTopic | UnknownTopicOrPartition | UnknownPartition | UnknownTopicId => {
            (Kind::NotFound, Some(codes::NO_SUCH_TOPIC))
        }
        GroupIdNotFound => (Kind::NotFound, Some(codes::NO_SUCH_GROUP)),
        OffsetOutOfRange | AutoOffsetReset => (Kind::NotFound, Some(codes::OFFSET_GONE)),
        TopicAlreadyExists => (Kind::Conflict, Some(codes::TOPIC_EXISTS)),
        NonEmptyGroup => (Kind::Conflict, None),
        MessageSizeTooLarge | InvalidMessageSize | MessageBatchTooLarge => {
            (Kind::Rejected, Some(codes::TOO_LARGE))
        }
        TopicAuthorizationFailed
        | GroupAuthorizationFailed
        | ClusterAuthorizationFailed
        | TransactionalIdAuthorizationFailed
        | SaslAuthenticationFailed
        | Authentication
        | UnsupportedSASLMechanism => (Kind::Denied, None),
        InvalidTopic
        | InvalidPartitions
        | InvalidReplicationFactor
        | InvalidConfig
        | InvalidRequest
        | PolicyViolation
        | InvalidRecord
        | InvalidTimestamp
        | InvalidArgument
        | InvalidGroupId => (Kind::Rejected, None),
        QueueFull | ThrottlingQuotaExceeded | GroupMaxSizeReached => (Kind::Busy, None),
        IllegalGeneration | UnknownMemberId | StaleMemberEpoch | FencedMemberEpoch
        | FencedInstanceId | ProducerFenced | InvalidProducerEpoch => {
            (Kind::Conflict, Some(codes::FENCED))
        }
        AllBrokersDown
        | BrokerTransportFailure
        | Resolve
        | SSL
        | OperationTimedOut
        | RequestTimedOut
        | MessageTimedOut
        | TimedOutQueue
        | LeaderNotAvailable
        | NotLeaderForPartition
        | BrokerNotAvailable
        | ReplicaNotAvailable
        | NetworkException
        | CoordinatorLoadInProgress
        | CoordinatorNotAvailable
        | NotCoordinator
        | NotEnoughReplicas
        | NotEnoughReplicasAfterAppend
        | NotController
        | KafkaStorageError
        | RebalanceInProgress
        | WaitingForCoordinator => (Kind::Unavailable, None),
        PurgeQueue | PurgeInflight | BrokerDestroy => (Kind::Closed, None),
        UnsupportedVersion | UnsupportedFeature => (Kind::Unsupported, None),
        _ => (Kind::Unexpected, None),
    }
}

/// Whether a broker has refused the call, or it was never sent: then surely nothing of it happened.
pub(crate) fn refused(error: &KafkaError) -> bool {
    let Some(code) = code_of(error) else {
        return false;
    };
    match code {
        Code::RequestTimedOut | Code::NetworkException => false,
        Code::WaitingForCoordinator => true,
        // The client's own errors are negative.
        _ => code as i32 > 0,
    }
}

/// Whether a message of which the client says this may be stored all the same.
pub(crate) fn may_be_stored(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        MessageTimedOut
            | TimedOutQueue
            | RequestTimedOut
            | OperationTimedOut
            | NotEnoughReplicasAfterAppend
            | BrokerTransportFailure
            | NetworkException
            | PurgeInflight
            | Fatal
    )
}

pub(crate) fn no_such_topic(topic: &Name) -> Error {
    Error::new(Kind::NotFound, format!("there is no topic {topic:?}"))
        .code(codes::NO_SUCH_TOPIC)
        .next("declare it, or look at the list of topics")
}

pub(crate) fn no_such_partition(topic: &Name, partition: u32, count: u32) -> Error {
    Error::new(
        Kind::Rejected,
        format!("the topic {topic:?} has no partition {partition}: it has {count}"),
    )
}

/// What no answer came to in the time of a call.
pub(crate) fn unavailable(what: impl fmt::Display) -> Error {
    Error::new(
        Kind::Unavailable,
        format!("{what}: the cluster does not answer"),
    )
    .next("the engine goes on trying; its health says how it is")
}

pub(crate) fn closed() -> Error {
    Error::closed("the Kafka engine")
}
