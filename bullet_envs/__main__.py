"""``python -m bullet_envs`` is the command ``bullet-envs``."""

from .cli import main

raise SystemExit(main())
