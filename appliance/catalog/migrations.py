"""The catalog's schema as an ordered list of steps; ``PRAGMA user_version`` counts those that were taken.

A step is never changed once it was released: a new one is added.
"""

import sqlite3

from appliance.errors import Refused
from appliance.redact import shown_url

STEPS: tuple[str, ...] = (
    """
    CREATE TABLE ledger (
        -- One row: ids that were given out are not given again, even if what they named never came to be.
        one INTEGER PRIMARY KEY CHECK (one = 1),
        next_thin_id INTEGER NOT NULL,
        transaction_id INTEGER
    ) STRICT;
    INSERT INTO ledger VALUES (1, 1, NULL);

    CREATE TABLE clients (
        name TEXT PRIMARY KEY,
        transport TEXT NOT NULL CHECK (transport IN ('unix', 'tcp')),
        address TEXT,
        port INTEGER,
        plain INTEGER NOT NULL CHECK (plain IN (0, 1)),
        CHECK ((transport = 'tcp') = (address IS NOT NULL)),
        CHECK ((transport = 'tcp') = (port IS NOT NULL))
    ) STRICT;

    CREATE TABLE templates (
        thin_id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        version INTEGER NOT NULL CHECK (version > 0),
        state TEXT NOT NULL CHECK (state IN ('importing', 'ready', 'removing')),
        size INTEGER NOT NULL,
        format TEXT NOT NULL,
        source TEXT NOT NULL,
        sha256 TEXT,
        created REAL NOT NULL,
        UNIQUE (name, version)
    ) STRICT;

    CREATE TABLE stagings (
        thin_id INTEGER PRIMARY KEY,
        template INTEGER NOT NULL REFERENCES templates
    ) STRICT;

    CREATE TABLE clones (
        thin_id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        template INTEGER NOT NULL REFERENCES templates,
        kind TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('creating', 'ready', 'removing')),
        size INTEGER NOT NULL,
        client TEXT REFERENCES clients,
        created REAL NOT NULL
    ) STRICT;
    CREATE INDEX clones_by_template ON clones (template);
    CREATE INDEX clones_by_client ON clones (client);
    CREATE INDEX clones_open ON clones (state) WHERE state <> 'ready';
    """,
    """
    CREATE TABLE pools (
        name TEXT PRIMARY KEY,
        -- What the catalog and the pool agreed on last; NULL before the first change.
        transaction_id INTEGER,
        -- Which drives the pool is on; NULL for the pool that is on the array.
        identity TEXT
    ) STRICT;
    INSERT INTO pools SELECT 'durable', transaction_id, NULL FROM ledger;
    INSERT INTO pools VALUES ('fast', NULL, NULL);
    ALTER TABLE ledger DROP COLUMN transaction_id;

    CREATE TABLE garbage (
        -- Volumes that are to be deleted. A volume stands here before its deletion begins, and while it is being made.
        thin_id INTEGER PRIMARY KEY,
        pool TEXT NOT NULL REFERENCES pools,
        why TEXT NOT NULL,
        since REAL NOT NULL
    ) STRICT;
    INSERT INTO garbage SELECT thin_id, 'durable', 'clone ' || name || ' was removed', created FROM clones
        WHERE state = 'removing';
    DELETE FROM clones WHERE state = 'removing';
    INSERT INTO garbage
        SELECT s.thin_id, 'durable', 'template ' || t.name || '@' || t.version || ' was removed', t.created
        FROM stagings s JOIN templates t ON t.thin_id = s.template WHERE t.state = 'removing';
    DELETE FROM stagings WHERE template IN (SELECT thin_id FROM templates WHERE state = 'removing');
    INSERT INTO garbage
        SELECT thin_id, 'durable', 'template ' || name || '@' || version || ' was removed', created FROM templates
        WHERE state = 'removing';
    DELETE FROM templates WHERE state = 'removing';

    CREATE TABLE versions (
        -- The highest version that a name had: a number is not used again for other content.
        name TEXT PRIMARY KEY,
        last INTEGER NOT NULL
    ) STRICT;
    INSERT INTO versions SELECT name, max(version) FROM templates WHERE state = 'ready' GROUP BY name;
    ALTER TABLE templates ADD COLUMN retired INTEGER NOT NULL DEFAULT 0 CHECK (retired IN (0, 1));

    ALTER TABLE clones ADD COLUMN expires REAL;
    CREATE INDEX clones_by_expiry ON clones (expires) WHERE expires IS NOT NULL;
    """,
    """
    CREATE TABLE boot_sets (
        template INTEGER PRIMARY KEY REFERENCES templates ON DELETE CASCADE,
        boot_set TEXT NOT NULL,
        guessed INTEGER NOT NULL CHECK (guessed IN (0, 1)),
        changed REAL NOT NULL
    ) STRICT;

    CREATE TABLE boot_runs (
        number INTEGER PRIMARY KEY,
        template INTEGER NOT NULL REFERENCES templates ON DELETE CASCADE,
        clone TEXT NOT NULL,
        recorded REAL NOT NULL,
        trace TEXT NOT NULL
    ) STRICT;
    CREATE INDEX boot_runs_by_template ON boot_runs (template);
    """,
    """
    CREATE TABLE authority (
        -- One row, made when the first client needs it: who signs certificates. The key is secret.
        one INTEGER PRIMARY KEY CHECK (one = 1),
        certificate TEXT NOT NULL,
        key TEXT NOT NULL
    ) STRICT;

    CREATE TABLE certificates (
        -- What was signed for clients. Only what stands here and was not revoked lets anybody in.
        serial TEXT PRIMARY KEY,
        client TEXT NOT NULL REFERENCES clients ON DELETE CASCADE,
        issued REAL NOT NULL,
        expires REAL NOT NULL,
        revoked REAL,
        -- Whether the connections that were open when it was revoked have been cut.
        cut INTEGER NOT NULL DEFAULT 0 CHECK (cut IN (0, 1))
    ) STRICT;
    CREATE INDEX certificates_by_client ON certificates (client);
    """,
    """
    -- Requests and bytes in a second; NULL is no limit.
    ALTER TABLE clones ADD COLUMN iops INTEGER CHECK (iops > 0);
    ALTER TABLE clones ADD COLUMN bandwidth INTEGER CHECK (bandwidth > 0);
    ALTER TABLE clients ADD COLUMN max_connections INTEGER NOT NULL DEFAULT 1000 CHECK (max_connections > 0);
    """,
    """
    CREATE TABLE boot_checks (
        -- Boots that were recorded to judge a boot set alone, and the bytes of it that they read.
        number INTEGER PRIMARY KEY,
        template INTEGER NOT NULL REFERENCES templates ON DELETE CASCADE,
        recorded REAL NOT NULL,
        used INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX boot_checks_by_template ON boot_checks (template);
    """,
    """
    CREATE TABLE seeds (
        -- What guests are told at their first boot. User data may be secret. A number is never used for another seed.
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        clone TEXT NOT NULL UNIQUE REFERENCES clones (name) ON DELETE CASCADE,
        hostname TEXT NOT NULL,
        -- A list in JSON.
        ssh_keys TEXT NOT NULL,
        user_data TEXT
    ) STRICT;
    """,
    """
    -- A second client that may write to a clone for a time, while its guest is migrated.
    ALTER TABLE clones ADD COLUMN shared TEXT REFERENCES clients;
    ALTER TABLE clones ADD COLUMN shared_until REAL;
    CREATE INDEX clones_by_second_client ON clones (shared) WHERE shared IS NOT NULL;

    -- An operator's own authority: what is above it, and what the storage daemons show when its key is not here.
    ALTER TABLE authority ADD COLUMN given INTEGER NOT NULL DEFAULT 0 CHECK (given IN (0, 1));
    ALTER TABLE authority ADD COLUMN chain TEXT NOT NULL DEFAULT '';
    ALTER TABLE authority ADD COLUMN server_certificate TEXT;
    ALTER TABLE authority ADD COLUMN server_key TEXT;
    -- The name that lets a certificate from outside in; NULL for those that were made here.
    ALTER TABLE certificates ADD COLUMN name TEXT;
    CREATE INDEX certificates_by_name ON certificates (name) WHERE name IS NOT NULL;
    """,
    """
    CREATE TABLE fetches (
        -- Templates that are ready for clones while their rest is fetched: from where, and up to which byte all is in.
        template INTEGER PRIMARY KEY REFERENCES templates ON DELETE CASCADE,
        uri TEXT NOT NULL,
        fetched INTEGER NOT NULL DEFAULT 0,
        -- In PEM, where the server takes TLS. The key is secret.
        authority TEXT,
        certificate TEXT,
        key TEXT
    ) STRICT;
    -- Clones that were made meanwhile: no snapshots. What their volume has not is read from the template's device.
    ALTER TABLE clones ADD COLUMN overlay INTEGER NOT NULL DEFAULT 0 CHECK (overlay IN (0, 1));
    """,
    """
    CREATE TABLE offers (
        -- Templates that a client may read, another appliance above all. A number is never used for another offer.
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        template INTEGER NOT NULL REFERENCES templates,
        client TEXT NOT NULL REFERENCES clients ON DELETE CASCADE,
        -- The template's boot set when it was offered, which travels with it.
        boot_set TEXT,
        UNIQUE (template, client)
    ) STRICT;
    """,
    """
    CREATE TABLE identity (
        -- One row: what tells this catalog's clones from another one's, for as long as it lives, its backups included.
        one INTEGER PRIMARY KEY CHECK (one = 1),
        store TEXT NOT NULL
    ) STRICT;
    INSERT INTO identity VALUES (1, lower(hex(randomblob(16))));

    CREATE TABLE nvme_doors (
        -- Where, and as which host, a client reaches clones over NVMe/TCP. A number is never used for another one.
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        client TEXT NOT NULL UNIQUE REFERENCES clients ON DELETE CASCADE,
        address TEXT NOT NULL,
        port INTEGER NOT NULL,
        host_nqn TEXT NOT NULL UNIQUE,
        -- Of DH-HMAC-CHAP, and when it was made. The key is secret.
        key TEXT,
        made REAL
    ) STRICT;
    ALTER TABLE clones ADD COLUMN protocol TEXT NOT NULL DEFAULT 'nbd' CHECK (protocol IN ('nbd', 'nvme-tcp'));
    """,
)

CLEANING = """
    UPDATE templates SET source = shown_url(source)
        WHERE (source LIKE 'http://%' OR source LIKE 'https://%') AND source <> shown_url(source);
"""
"""What a release wrote into columns that are as they were, and none shall: URLs with passwords and signatures in them.

It is done at each opening and takes no step, for an older release refuses a form that it does not know. One that was
gone back to may have written more of it.
"""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to the newest schema, each step in a transaction of its own, and clean it.

    Raises Refused when the database was written by a newer release.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(STEPS):
        raise Refused(
            "the catalog was written by a newer release",
            why=f"its schema is version {version}, this release knows {len(STEPS)}",
            hint="boot the newer release",
        )
    for number, step in enumerate(STEPS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{step}\nPRAGMA user_version = {number};\nCOMMIT;")
    connection.create_function("shown_url", 1, shown_url, deterministic=True)
    # What was there is overwritten in the file, too.
    connection.executescript(f"PRAGMA secure_delete = ON;\nBEGIN IMMEDIATE;\n{CLEANING}\nCOMMIT;")
