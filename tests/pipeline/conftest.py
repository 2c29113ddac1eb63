"""The S3 server for the pipeline's tests."""

from tests.s3 import s3 as s3
from tests.s3 import s3_server as s3_server
