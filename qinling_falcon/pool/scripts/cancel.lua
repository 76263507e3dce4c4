-- cancel: tells the processes that run an execution, or may begin to, to end it.
-- ARGV    2 execution
-- reads   holders, former, journal:<holder>
-- writes  grants:<holder>
-- returns how many processes were notified
-- promises  Each process whose journal has the execution is notified. Unless only `web` processes have it, all `worker`
--           processes are notified, because one of them may have claimed the execution and wait for a worker.
-- cost      one command for each process that leases

local calling, drains = {}, {}
for _, set in ipairs({HOLDERS, FORMER}) do
  for _, holder in ipairs(call('ZRANGE', set, 0, -1)) do
    if is_asynchronous(holder) then
      drains[#drains + 1] = holder
    elseif read_journal(holder, ARGV[2]) then
      calling[#calling + 1] = holder
    end
  end
end
local notified = #calling > 0 and calling or drains
for _, holder in ipairs(notified) do notify(holder, '', 'cancel', ARGV[2]) end
return #notified
