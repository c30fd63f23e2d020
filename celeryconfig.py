"""Celery's settings. Messages are hints, so there is early ack and no results, retries or countdowns.

The reasons are in docs/reliability.md section 1; most settings avoid a measured defect of Celery with Redis.
"""

from core.settings import load
from workers.broker.options import address, is_redis, transport_options

_settings = load()

broker_url = address(_settings.broker_url)
broker_transport_options = transport_options(_settings.broker_url, timeout_s=5)
broker_heartbeat = 10  # seconds; how RabbitMQ notices a dead peer; ignored by Redis
broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # no limit: the worker waits until the broker is back
broker_pool_limit = 10

accept_content = ["json"]
task_serializer = "json"
task_ignore_result = True
task_acks_late = False
task_store_errors_even_if_ignored = False
task_default_queue = "control"
task_create_missing_queues = True
if not is_redis(broker_url):
    # Quorum queues survive the loss of a RabbitMQ node. Redis has no kinds of queue.
    task_default_queue_type = task_create_missing_queue_type = "quorum"
    task_default_exchange_type = "direct"
task_send_sent_event = False

worker_consumer = "workers.broker.consumer:Consumer"
worker_prefetch_multiplier = 1
worker_send_task_events = _settings.task_events
worker_enable_remote_control = True
worker_hijack_root_logger = False
worker_cancel_long_running_tasks_on_connection_loss = False
worker_proc_alive_timeout = 30
event_queue_ttl = 10
event_queue_expires = 60

timezone = "UTC"
enable_utc = True
