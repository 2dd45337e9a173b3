"""The subcommands that need nothing but the light core."""
