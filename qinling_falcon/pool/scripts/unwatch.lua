-- unwatch: ends the watch of a process on an execution, because no request of the process waits for it any more.
-- ARGV    2 holder  3 execution
-- writes  watched, watchers:<execution>
-- returns 1
-- promises  The watches of other processes stay.

call('SREM', watchers_of(ARGV[3]), ARGV[2])
if call('EXISTS', watchers_of(ARGV[3])) == 0 then call('ZREM', WATCHED, ARGV[3]) end
return 1
