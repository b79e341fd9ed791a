/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kinds of events in the journal that operators and programs look for: the
 * values of MESSAGE_ID=. Given to log_event(). An id never changes its meaning
 * and is never used again; each has its entry in systemd/postcopy.catalog and in
 * docs/journal.md (tests/message_catalog.py checks that). A new one:
 * systemd-id128 new.
 *
 * Behind each: when it is logged, and its fields beside MESSAGE, PRIORITY and
 * SYSLOG_IDENTIFIER. Fields without a value are left out.
 */
#ifndef CORE_MESSAGE_IDS_H
#define CORE_MESSAGE_IDS_H

/* ---- Migrations, on the destination (postcopyd) ---- */

/*
 * An operator or a control plane has started a migration. Fields: MIGRATION_ID, PEER,
 * PEER_ADDRESS.
 */
#define MESSAGE_MIGRATION_STARTED "ba6dfcd7b7ef491bac4a64918dbee22f"

/*
 * The VMM has handed its memory over. Fields: MIGRATION_ID, MIGRATION_STATE, PEER,
 * PEER_ADDRESS, VMM_PID, REASON.
 */
#define MESSAGE_MIGRATION_ATTACHED "94a2d9de598d4717ad13f7032b4bf2f5"

/*
 * Every lane is connected and the source is frozen: pages come. Fields: MIGRATION_ID,
 * MIGRATION_STATE, PEER, PEER_ADDRESS, VMM_PID.
 */
#define MESSAGE_MIGRATION_SERVING "ff038972865149a5aeafdd87a7281435"

/*
 * The link to the source is lost while pages are missing. Fields: MIGRATION_ID,
 * MIGRATION_STATE, PEER, PEER_ADDRESS, VMM_PID, REASON.
 */
#define MESSAGE_MIGRATION_PAUSED "6ad3ac53717549728ba53da7d277b9f1"

/*
 * The link is being set up again. Fields: MIGRATION_ID, MIGRATION_STATE, PEER,
 * PEER_ADDRESS, VMM_PID, REASON.
 */
#define MESSAGE_MIGRATION_RECOVERING "044c1ce9996c4162a3164250da901c9b"

/*
 * Postcopy-active again after a pause. Fields: MIGRATION_ID, MIGRATION_STATE, PEER,
 * PEER_ADDRESS, VMM_PID.
 */
#define MESSAGE_MIGRATION_RECOVERED "271d678758684941be6d7fd89aad01fe"

/*
 * Every page is here, lost or given back by the guest. Fields: MIGRATION_ID,
 * MIGRATION_STATE, PEER, PEER_ADDRESS, VMM_PID, LOST_BYTES, REMAINING_BYTES, REASON.
 */
#define MESSAGE_MIGRATION_COMPLETED "d3af9de352d84894a4e602a62ce6af5f"

/*
 * The migration has ended without all of its pages. Fields: MIGRATION_ID, MIGRATION_STATE,
 * PEER, PEER_ADDRESS, VMM_PID, LOST_BYTES, REMAINING_BYTES, REASON.
 */
#define MESSAGE_MIGRATION_FAILED "625f6566fba94c31888ecc12ec129847"

/*
 * An operator has cancelled the migration. Fields: MIGRATION_ID, MIGRATION_STATE, PEER,
 * PEER_ADDRESS, VMM_PID, LOST_BYTES, REMAINING_BYTES, REASON.
 */
#define MESSAGE_MIGRATION_CANCELLED "f35f77f466584b2b9e518fea2b6ba666"

/*
 * A restarted daemon has put a lane in order; once a lane. Fields: MIGRATION_ID, PEER,
 * PEER_ADDRESS, VMM_PID, LANE.
 */
#define MESSAGE_MIGRATION_ADOPTED "c2ab857c80f44006be56567980971acf"

/*
 * A restarted daemon has taken a migration up; its lanes follow. Fields: MIGRATION_ID,
 * MIGRATION_STATE, PEER, PEER_ADDRESS, VMM_PID, REMAINING_BYTES.
 */
#define MESSAGE_MIGRATION_RESTORED "95583263464e4924bdd4d9d8ef0f0e91"

/*
 * A restarted daemon cannot take a migration up: what is kept of it stays in the FD store.
 * Fields: MIGRATION_ID, VMM_PID, REASON.
 */
#define MESSAGE_MIGRATION_STRANDED "b3248c10acf9485d9d2ba81c43a938c1"

/*
 * The daemon ends while the migration lives. Fields: MIGRATION_ID, MIGRATION_STATE, PEER,
 * PEER_ADDRESS, VMM_PID, REMAINING_BYTES.
 */
#define MESSAGE_MIGRATION_LEFT "3695e5b319854da3a4d6e73b634111f8"

/*
 * The daemon is to end and does not yet, for this guest's sake. Fields: MIGRATION_ID,
 * MIGRATION_STATE, PEER, PEER_ADDRESS, VMM_PID, REMAINING_BYTES.
 */
#define MESSAGE_STOP_WAITS "9f1a2d8750814e5cb5486afd8d45ec25"

/*
 * A thread of a lane does not react, or does not read its userfaultfd: the watchdog will
 * bite. Once for each time. Fields: MIGRATION_ID, VMM_PID, LANE, REASON.
 */
#define MESSAGE_LANE_STANDS "6afbd673b44448b28414be50af03878b"

/* ---- Lost pages, on the destination (postcopyd) ---- */

/*
 * The audit: exactly one record for each entry of the ledger, in its order. Fields:
 * MIGRATION_ID, LEDGER_ENTRY, REGION, PAGE_OFFSET, GUEST_PHYSICAL_ADDRESS, LOST_BYTES,
 * REASON, REPORTED_BY, PEER, LANE, POISONED_USEC.
 */
#define MESSAGE_PAGE_POISONED "15c51a7cbc2f4839a1cf1cf50692e6de"

/*
 * There is poison, the guest runs, and this kernel cannot place it. Fields: MIGRATION_ID,
 * PEER, PEER_ADDRESS, VMM_PID.
 */
#define MESSAGE_POISON_UNPLACEABLE "bbdf4cdefd83439ea5661c9239c5b049"

/*
 * The source stayed away, and the policy poisons what is missing. Fields: MIGRATION_ID,
 * PEER, PEER_ADDRESS, REASON.
 */
#define MESSAGE_SOURCE_ABANDONED "71a01875aca54e42a16ab331138067da"

/* ---- Who is refused, and trouble with the VMM, on the destination (postcopyd) ---- */

/*
 * The source refused this host for good, or its certificate is not the expected one; for
 * each lane. Fields: MIGRATION_ID, PEER, PEER_ADDRESS, LANE, REASON.
 */
#define MESSAGE_SOURCE_REFUSED "96400cc6598b4a9296dd7ca697fa8730"

/* A process asked to attach and was refused. Fields: MIGRATION_ID, VMM_PID, REASON. */
#define MESSAGE_ATTACH_REFUSED "6594507291dc422fbc0ca8c9657d2d40"

/* The process of the VMM has ended during the migration. Fields: MIGRATION_ID, VMM_PID. */
#define MESSAGE_VMM_GONE "984dc891334341c4afc51d174d6298c0"

/* The VMM closed its attach connection and lives on. Fields: MIGRATION_ID, VMM_PID. */
#define MESSAGE_VMM_DISCONNECTED "a15dc77950a546fbab4d67c3ccf6693b"

/*
 * A page cannot be placed for want of memory; it is tried again. Fields: MIGRATION_ID,
 * VMM_PID, LANE, REASON.
 */
#define MESSAGE_NO_MEMORY "fa78660f36824c399746b379d4412ed8"

/*
 * Memory is mapped where a page was missing; once a thread. Fields: MIGRATION_ID, VMM_PID,
 * LANE, REASON.
 */
#define MESSAGE_UNEXPECTED_PAGE "4046dc03b4944255a38a534da27c28bf"

/*
 * The VMM unmapped memory of the guest; once a thread. Fields: MIGRATION_ID, VMM_PID, LANE,
 * REASON.
 */
#define MESSAGE_MEMORY_UNMAPPED "933154165c574376bf206f4b856830b7"

/*
 * A request on the control socket that changes something, done or refused. Fields:
 * MIGRATION_ID, REQUEST, CLIENT_PID, CLIENT_UID, REASON.
 */
#define MESSAGE_OPERATOR_REQUEST "fe465ff06c2a4644872d277b56581231"

/* ---- Exports, on the source (postcopy-sourced) ---- */

/* A VMM or an operator has exported memory. Fields: MIGRATION_ID, PEER, EXPORTER. */
#define MESSAGE_EXPORT_EXPORTED "c0fbd048a2244eb998c58b059af156fb"

/* The guest stands still. Fields: MIGRATION_ID, PEER, REASON. */
#define MESSAGE_EXPORT_FROZEN "14519ff4bc544fed934d8bb861868376"

/* A destination takes pages. Fields: MIGRATION_ID, PEER, PEER_ADDRESS. */
#define MESSAGE_EXPORT_SERVING "570f292b937444c5a54cd6f3db2fff30"

/*
 * The destination has said that its guest is gone. Fields: MIGRATION_ID, PEER,
 * PEER_ADDRESS, REASON.
 */
#define MESSAGE_EXPORT_GIVEN_UP "c12afd71d40247b18e5ac349346956e3"

/* The destination has everything. Fields: MIGRATION_ID, PEER, PEER_ADDRESS, REASON. */
#define MESSAGE_EXPORT_RELEASED "7c2fe501f2cf449580879dd3acc92a8f"

/* The memory of the export has gone. Fields: MIGRATION_ID, PEER, PEER_ADDRESS, REASON. */
#define MESSAGE_EXPORT_FAILED "dc28ac707bed4c958eec51c13092c590"

/*
 * The VMM or an operator has withdrawn the export. Fields: MIGRATION_ID, PEER,
 * PEER_ADDRESS, REASON.
 */
#define MESSAGE_EXPORT_WITHDRAWN "2614b76f42054cf6b0c3a9d1466b3c0b"

/*
 * A request on the export socket was refused. Fields: MIGRATION_ID, CLIENT_PID, CLIENT_UID,
 * REASON.
 */
#define MESSAGE_EXPORT_REFUSED "ef04317291804826a24fe0a888b9a7f9"

/*
 * The process that exported hung up; its memory is still readable. Fields: MIGRATION_ID,
 * PEER, EXPORTER.
 */
#define MESSAGE_EXPORTER_LEFT "76a385ff746149d9ae97d4f335136dcd"

/*
 * A restarted agent has taken an export up that has not ended. Fields: MIGRATION_ID,
 * EXPORT_STATE, PEER, EXPORTER.
 */
#define MESSAGE_EXPORT_RESTORED "64a87157777842028470b7ec90779c9f"

/*
 * A restarted agent cannot take an export up: what is kept of it stays in the FD store.
 * Fields: MIGRATION_ID, REASON.
 */
#define MESSAGE_EXPORT_STRANDED "fc7ed1057ec34fd3951223cf6c21fd17"

/*
 * The agent is to end and does not yet, for the sake of a guest on another host. Fields:
 * MIGRATION_ID, PEER, PEER_ADDRESS.
 */
#define MESSAGE_EXPORT_STOP_WAITS "474e4e8cbbc5402bb8a83df6386b33e0"

/* The agent ends while exports live. Fields: LIVE_EXPORTS. */
#define MESSAGE_EXPORTS_LEFT "530d30156167405daa75f563c89da31c"

/*
 * A page connection of a destination was accepted; two a lane. Fields: MIGRATION_ID, PEER,
 * PEER_ADDRESS, ROLE, LANE.
 */
#define MESSAGE_DESTINATION_CONNECTED "4ea9f76c2a7742e0bf89e394f90a3621"

/* A page connection has ended. Fields: MIGRATION_ID, PEER, PEER_ADDRESS, ROLE, LANE, REASON. */
#define MESSAGE_DESTINATION_DISCONNECTED "6a2503af0fea46bea49605e1faee3632"

/*
 * A destination was refused: certificate, token, version, unknown or ended export. Fields:
 * MIGRATION_ID, PEER_ADDRESS, ERROR_CODE, REASON.
 */
#define MESSAGE_DESTINATION_REFUSED "734a690ace4242f59204c04c8e947247"

/*
 * Pages could not be read, or were reported as lost. Fields: MIGRATION_ID, REGION,
 * PAGE_OFFSET, GUEST_PHYSICAL_ADDRESS, LOST_BYTES, REASON.
 */
#define MESSAGE_PAGES_LOST "99f284a01b5f4889a06bba578b74bae3"

/* ---- Both programs ---- */

/* A local process may not use a socket. Fields: SOCKET, CLIENT_PID, CLIENT_UID, REASON. */
#define MESSAGE_ACCESS_DENIED "cb36457c3f9d4417abe81fa6725789d0"

/* Settings, keys and certificates were loaded again. No fields. */
#define MESSAGE_RELOADED "67ef966b4a73469eb1a7fc16dabc11b5"

/* A reload failed: everything is as before. Fields: REASON. */
#define MESSAGE_RELOAD_REFUSED "032c93b147fe4371b493cb7bb58a409d"

#endif
