"""Bodies that are a tar are sent as they are made up: as bytes."""

import schemathesis

schemathesis.serializer.alias("application/x-tar", "application/octet-stream")
