"""`python -m iceagent` is the command `iceagent`."""

import sys

from iceagent.cli import main

sys.exit(main())
