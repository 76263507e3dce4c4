-- acknowledge: reports executions whose records are committed. Other scripts do so, too, if they run soon enough.
-- ARGV    2 holder  3 executions, joined by commas
-- reads   watched, watchers:<execution>
-- writes  journal:<holder>; for a watched execution watched, watchers:<execution>, grants:<holder>
-- returns 1
-- promises  The executions are not in the holder's journal. The processes that watch one of them are notified.

acknowledge(ARGV[2], ARGV[3])
return 1
