"""What is public of the appliance: read-only, and served by a process without privileges."""
