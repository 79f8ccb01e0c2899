"""The one rollout and buffer core: it knows no algorithm and no particular environment."""
