"""Filters of one broker: checks them, finds the right one for a request, keeps what groups have registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastmq.broker.filter.bloom import BloomFilter
from fastmq.broker.filter.consumers import ConsumerFilterTable, compile_filter
from fastmq.broker.filter.expression import Expression, ExpressionCache
from fastmq.broker.filter.matching import MessageFilter
from fastmq.broker.filter.syntax import ExpressionError
from fastmq.errors import RequestError
from fastmq.protocol.bodies import SUB_ALL, SubscriptionData, is_tag_type
from fastmq.protocol.codes import ResponseCode
from fastmq.protocol.names import is_retry_topic

if TYPE_CHECKING:
    from fastmq.config import BrokerConfig


class FilterService:
    """Makes `MessageFilter`s. The constructor raises StoreError if the file of registered filters is unreadable."""

    def __init__(self, path: str | None, *, config: Callable[[], BrokerConfig], wall_ms: Callable[[], int]) -> None:
        self._config = config
        self.expressions = ExpressionCache()
        self.consumers = ConsumerFilterTable(
            path,
            bloom=BloomFilter(config().max_error_rate_of_bloom_filter, config().expect_consumer_num_use_filter),
            cache=self.expressions,
            wall_ms=wall_ms,
            clean_after_ms=lambda: config().filter_data_clean_time_span,
        )

    def warm_up(self) -> None:
        """Make the parser, which takes some ten milliseconds, before a client waits for it. In any thread."""
        Expression("TRUE")

    def wants_bit_maps(self, topic: str) -> bool:
        """Whether messages of the topic get bit maps, so that each has to be seen before it is stored."""
        config = self._config()
        return (
            config.enable_consume_queue_ext
            and config.enable_calc_filter_bit_map
            and bool(self.consumers.of_topic(topic))
        )

    def bit_map(self, topic: str, properties: bytes) -> bytes | None:
        """The bit map of a message that is about to be stored; None if it gets none."""
        return self.consumers.bit_map(topic, properties) if self._config().enable_calc_filter_bit_map else None

    def check(self, subscription: SubscriptionData) -> None:
        """Whether a client may filter like this: RequestError with SYSTEM_ERROR or SUBSCRIPTION_PARSE_FAILED if not."""
        if not is_tag_type(subscription.expression_type):
            self._compile(subscription)

    def own(self, group: str, subscription: SubscriptionData) -> MessageFilter:
        """The filter of a subscription that came with the request itself. RequestError as `check`."""
        if is_tag_type(subscription.expression_type):
            return MessageFilter(tag_codes=tag_codes(subscription))
        return self._made(group, subscription, self._compile(subscription))

    def registered(self, group: str, subscription: SubscriptionData, sub_version: int) -> MessageFilter:
        """The filter of a subscription that came with heartbeats; the client knows it under `sub_version`.

        RequestError with FILTER_DATA_NOT_EXIST, FILTER_DATA_NOT_LATEST or SYSTEM_ERROR: the client then waits for its
        next heartbeat to be heard.
        """
        if is_tag_type(subscription.expression_type):
            return MessageFilter(tag_codes=tag_codes(subscription))
        self._refuse_if_off(subscription)
        known = self.consumers.get(subscription.topic, group)
        if known is None or known.compiled is None:
            raise RequestError(
                ResponseCode.FILTER_DATA_NOT_EXIST,
                "The broker's consumer filter data is not exist!Your expression may be wrong!",
            )
        if known.client_version < sub_version:
            raise RequestError(ResponseCode.FILTER_DATA_NOT_LATEST, "the consumer's consumer filter data not latest")
        return self._made(group, subscription, known.compiled)

    def _made(self, group: str, subscription: SubscriptionData, expression: Expression) -> MessageFilter:
        if subscription.class_filter_mode:
            return MessageFilter()
        if self._config().filter_support_retry and is_retry_topic(subscription.topic):
            return MessageFilter(expression_of_origin=lambda origin: self._registered_expression(origin, group))
        known = self.consumers.get(subscription.topic, group)
        same = known is not None and known.expression == expression.text
        return MessageFilter(expression=expression, bloom=known.bloom if known is not None and same else None)

    def _registered_expression(self, topic: str, group: str) -> Expression | None:
        known = self.consumers.get(topic, group)
        return None if known is None else known.compiled

    def _compile(self, subscription: SubscriptionData) -> Expression:
        self._refuse_if_off(subscription)
        try:
            return compile_filter(self.expressions, subscription)
        except ExpressionError as error:
            raise RequestError(
                ResponseCode.SUBSCRIPTION_PARSE_FAILED, f"parse the consumer's subscription failed, {error}"
            ) from None

    def _refuse_if_off(self, subscription: SubscriptionData) -> None:
        if not self._config().enable_property_filter:
            raise RequestError(
                ResponseCode.SYSTEM_ERROR,
                f"The broker does not support consumer to filter message by {subscription.expression_type}: "
                "enablePropertyFilter is false in its configuration",
            )


def tag_codes(subscription: SubscriptionData) -> frozenset[int] | None:
    """What the tag code of a message must be, None if it does not matter."""
    if subscription.class_filter_mode or subscription.sub_string == SUB_ALL:
        return None
    return subscription.code_set
