"""Consumer groups whose clients subscribe to different things.

A group has one set of subscriptions on the broker, that of the last heartbeat, while queues are shared out among all
its clients. If two clients want different topics or filters, each loses what the other's filter leaves out, and
RocketMQ says nothing. Here it is said: in the log, once for each change, and in the group's view
(GET_CONSUMER_CONNECTION_LIST). A client that joins with other filters during an upgrade is in conflict, too, for as
long as the old ones stay.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from fastmq.protocol.bodies import SubscriptionData, is_tag_type

log = logging.getLogger("fastmq.broker.groups")

NOT_SUBSCRIBED: Final = "(not subscribed)"

Conflicts = dict[str, dict[str, str]]
"""For each topic in conflict what each client wants of it."""


@dataclass(slots=True)
class _Member:
    client_id: str
    subscriptions: tuple[SubscriptionData, ...]
    wants: dict[str, str]


@dataclass(slots=True)
class _Group:
    members: dict[int, _Member] = field(default_factory=dict)
    conflicts: Conflicts = field(default_factory=dict)


class SubscriptionConflicts:
    """What the members of each group said last, and where they differ."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}

    def of_group(self, group: str) -> Conflicts:
        """The topics of which not all members want the same; empty if they agree."""
        known = self._groups.get(group)
        return {} if known is None else known.conflicts

    def heard(self, group: str, member: int, client_id: str, subscriptions: Iterable[SubscriptionData]) -> None:
        """A heartbeat. `member` is its connection."""
        known = self._groups.setdefault(group, _Group())
        said = tuple(subscriptions)
        before = known.members.get(member)
        if before is not None and before.client_id == client_id and before.subscriptions == said:
            return
        wants = {subscription.topic: _described(subscription) for subscription in said}
        known.members[member] = _Member(client_id, said, wants)
        if before is None or before.client_id != client_id or before.wants != wants:
            self._compare(group, known)

    def left(self, group: str, member: int) -> None:
        """A member is gone."""
        known = self._groups.get(group)
        if known is None or known.members.pop(member, None) is None:
            return
        if not known.members:
            del self._groups[group]
        elif known.conflicts:
            self._compare(group, known)

    def _compare(self, group: str, known: _Group) -> None:
        conflicts = _find(known.members.values())
        if conflicts == known.conflicts:
            return
        for topic, views in conflicts.items():
            if views != known.conflicts.get(topic):
                wants = "; ".join(f"{client_id} wants {text}" for client_id, text in views.items())
                log.warning(
                    "the clients of group %s do not subscribe to the same of topic %s, so that each loses messages: %s",
                    group, topic, wants,
                )  # fmt: skip
        for topic in known.conflicts.keys() - conflicts.keys():
            log.info("the clients of group %s subscribe to the same of topic %s now", group, topic)
        known.conflicts = conflicts


def _find(members: Iterable[_Member]) -> Conflicts:
    members = list(members)
    if all(member.wants == members[0].wants for member in members):
        return {}
    topics = dict.fromkeys(topic for member in members for topic in member.wants)
    views = {
        topic: {member.client_id: member.wants.get(topic, NOT_SUBSCRIBED) for member in members} for topic in topics
    }
    return {topic: view for topic, view in views.items() if len(set(view.values())) > 1}


def _described(subscription: SubscriptionData) -> str:
    """A filter in a form that is equal for filters that mean the same."""
    if not is_tag_type(subscription.expression_type):
        return f"{subscription.expression_type}: {subscription.sub_string}"
    if subscription.class_filter_mode:
        return f"class filter: {subscription.sub_string}"
    return " || ".join(sorted(subscription.tags_set)) or "*"
