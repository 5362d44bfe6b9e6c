//! Requests to an agent and its answers, with the bounds that the programs use.

use ctrl_exec_protocol::json::{Bounds, Raw};
use ctrl_exec_protocol::wire::messages::{
    AsyncReply, CancelReply, CancelRequest, CapabilitiesReply, PingReply, RenewCompleteRequest,
    RenewReply, ResultReply, RotateRequest, RunAnswer, RunRequest, RunsReply, error_of, reqid_of,
};

/// Any bytes are read as every message, or refused; what was read is written so that it reads the
/// same.
pub fn run(data: &[u8]) {
    if let Ok(request) = RunRequest::parse(data) {
        assert_eq!(RunRequest::parse(request.render().as_bytes()), Ok(request));
    }
    if let Ok(request) = CancelRequest::parse(data) {
        assert_eq!(
            CancelRequest::parse(request.render().as_bytes()),
            Ok(request)
        );
    }
    let request = RenewCompleteRequest::parse(data);
    assert_eq!(
        RenewCompleteRequest::parse(request.render().as_bytes()),
        request
    );
    let request = RotateRequest::parse(data);
    let again = RotateRequest::parse(request.render().as_bytes());
    assert_eq!(
        (again.serial, again.action),
        (request.serial, request.action)
    );

    if let Ok(RunAnswer::Ended(reply)) = RunAnswer::parse(data) {
        assert_eq!(
            RunAnswer::parse(reply.render().as_bytes()),
            Ok(RunAnswer::Ended(reply))
        );
    }
    if let Ok(Some(reply)) = ResultReply::parse(data) {
        assert_eq!(
            ResultReply::parse(reply.render().as_bytes()),
            Ok(Some(reply))
        );
    }
    if let Ok(reply) = AsyncReply::parse(data) {
        let again = AsyncReply::parse(reply.render("s", "r").as_bytes());
        assert_eq!(again, Ok(reply));
    }
    if let Ok(reply) = RunsReply::parse(data) {
        assert_eq!(RunsReply::parse(reply.render().as_bytes()), Ok(reply));
    }
    if let Ok(reply) = CancelReply::parse(data) {
        assert_eq!(CancelReply::parse(reply.render().as_bytes()), Ok(reply));
    }
    if let Ok(Some(reply)) = PingReply::parse(data) {
        assert_eq!(PingReply::parse(reply.render().as_bytes()), Ok(Some(reply)));
    }
    if let Ok(Some(reply)) = RenewReply::parse(data) {
        assert_eq!(
            RenewReply::parse(reply.render().as_bytes()),
            Ok(Some(reply))
        );
    }
    if let Ok(Some(reply)) = CapabilitiesReply::parse(data) {
        let text = reply.render();
        assert_eq!(CapabilitiesReply::parse(text.as_bytes()), Ok(Some(reply)));
    }
    let reqid = reqid_of(data);
    assert!(reqid.len() <= data.len());
    error_of(data);

    // A slice that was handed out is JSON by itself.
    if let Ok(raw) = Raw::parse(data, &Bounds::REQUEST) {
        let parts = raw.members().map(|(_, value)| value).chain(raw.items());
        for part in parts {
            assert_eq!(
                Raw::parse(part.as_str().as_bytes(), &Bounds::REQUEST),
                Ok(part)
            );
        }
    }
}
