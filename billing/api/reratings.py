"""The door to put a re-rating in force: here, for what moves many units waits for approval."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from billing import rerating
from billing.api.corrections import person_of
from billing.models import Approval
from metering import rerating as reratings
from metering.api.reratings import RUN, ReratingBody, State, show, work_small
from subscriptions import clock
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.schema import refusals


class ReratingApplyDoor(OperatorDoor):
    @extend_schema(
        operation_id="apply_rerating",
        parameters=[RUN],
        request=None,
        responses={
            200: OpenApiResponse(ReratingBody, description="Applied; again is harmless."),
            202: OpenApiResponse(
                ReratingBody,
                description="The range is large: it is being applied. Or it is `previewed` still:"
                " it moves more units than the limit, and another person has to approve it.",
            ),
            **refusals(404, 409),
        },
    )
    def post(self, request: Request, run_id: int) -> Response:
        """Apply what was previewed; 409 `snapshot_changed` where it is not as it was then."""
        operator = operator_of(request)
        at = clock.now(operator)
        run = reratings.find(operator, run_id)
        begun = rerating.begin(operator, run, by=person_of(request), at=at)
        if isinstance(begun, Approval):
            return Response(show(run), status=202)
        run = begun
        if run.state == State.APPLYING:
            run = work_small(run, at=at)
        if run.state == State.REFUSED:
            raise reratings.SnapshotChanged
        return Response(show(run), status=202 if run.state == State.APPLYING else 200)
