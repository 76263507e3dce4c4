-- watch: lets a process watch executions, or go on watching them. It is notified when one of them ends.
-- ARGV    2 holder  3 for how many ms  4… executions
-- writes  watched, watchers:<execution>
-- returns 1
-- promises  The watch of a process that dies ends by itself. An end that is acknowledged after this script notifies the
--           process with the message `ended`.
-- cost      three commands for each execution, and two

call('ZREMRANGEBYSCORE', WATCHED, '-inf', text(now))
for at = 4, #ARGV do
  call('ZADD', WATCHED, 'GT', text(now + ARGV[3]), ARGV[at])
  call('SADD', watchers_of(ARGV[at]), ARGV[2])
  call('PEXPIRE', watchers_of(ARGV[at]), ARGV[3])
end
call('PEXPIRE', WATCHED, ARGV[3])
return 1
