-- cancel: tells the process that runs an execution to end it.
-- ARGV    2 execution
-- reads   holders, former, journal:<holder>
-- writes  grants:<holder>
-- returns how many processes were notified
-- promises  The process whose journal has the execution is notified. If no journal has it, all `worker` processes are
--           notified, because one of them may have claimed the execution and wait for a worker.
-- cost      one command for each process that leases

local drains = {}
for _, set in ipairs({HOLDERS, FORMER}) do
  for _, holder in ipairs(call('ZRANGE', set, 0, -1)) do
    if read_journal(holder, ARGV[2]) then
      notify(holder, '', 'cancel', ARGV[2])
      return 1
    end
    if string.sub(holder, 1, 7) == 'worker:' then drains[#drains + 1] = holder end
  end
end
for _, holder in ipairs(drains) do notify(holder, '', 'cancel', ARGV[2]) end
return #drains
