BEGIN TRANSACTION;
CREATE TABLE clients (
        name TEXT PRIMARY KEY,
        transport TEXT NOT NULL CHECK (transport IN ('unix', 'tcp')),
        address TEXT,
        port INTEGER,
        plain INTEGER NOT NULL CHECK (plain IN (0, 1)),
        CHECK ((transport = 'tcp') = (address IS NOT NULL)),
        CHECK ((transport = 'tcp') = (port IS NOT NULL))
    ) STRICT;
INSERT INTO "clients" VALUES('local','unix',NULL,NULL,0);
INSERT INTO "clients" VALUES('hv1','tcp','10.0.0.1',10809,1);
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
INSERT INTO "clones" VALUES(3,'web',1,'durable','ready',4194304,'local',1760000001.25);
INSERT INTO "clones" VALUES(4,'db',1,'durable','ready',4194304,NULL,1760000002.0);
INSERT INTO "clones" VALUES(5,'gone',1,'durable','removing',4194304,NULL,1760000003.0);
INSERT INTO "clones" VALUES(6,'half',1,'durable','creating',4194304,NULL,1760000004.0);
CREATE TABLE ledger (
        -- One row: ids that were given out are not given again, even if what they named never came to be.
        one INTEGER PRIMARY KEY CHECK (one = 1),
        next_thin_id INTEGER NOT NULL,
        transaction_id INTEGER
    ) STRICT;
INSERT INTO "ledger" VALUES(1,9,4);
CREATE TABLE stagings (
        thin_id INTEGER PRIMARY KEY,
        template INTEGER NOT NULL REFERENCES templates
    ) STRICT;
INSERT INTO "stagings" VALUES(8,7);
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
INSERT INTO "templates" VALUES(1,'debian',1,'ready',4194304,'qcow2','upload','abababababababababababababababababababababababababababababababab',1760000000.5);
INSERT INTO "templates" VALUES(2,'old',1,'removing',4194304,'qcow2','upload','abababababababababababababababababababababababababababababababab',1760000000.5);
INSERT INTO "templates" VALUES(7,'fedora',1,'importing',0,'qcow2','upload',NULL,1760000000.5);
CREATE INDEX clones_by_template ON clones (template);
CREATE INDEX clones_by_client ON clones (client);
CREATE INDEX clones_open ON clones (state) WHERE state <> 'ready';
COMMIT;
PRAGMA user_version = 1;
