-- lease: gives a call a worker, or a place in the queue.
-- ARGV    5 waiter's name (holder/n)  6 holder  7 runtime  8 target  9 function  10 project  11 execution  12 run_ms
--         13 detail, empty when there is no execution  14 wait_ms  15 max_waiters  16 which worker will do: 'any',
--         'fresh': only one that holds no function yet, 'loaded': only one that holds the target (which nobody waits
--         for)  17… pairs of (what, generation)
-- reads   generations, running:*, idle:<target>, warm:<runtime>, worker:<id>, waiters, lines, starting:*, runtimes
-- writes  a lease: worker:<id>, leases, running:*, executions, idle, idle:<target> or warm:<runtime>;
--         a waiter: turn, waiter:<name>, waiters, lines, line:<line>; room: draining, wakeups
-- returns {'stale'}: a generation differs or is missing, nothing was changed
--         {'lease', worker, address, secret, token, cold, needs_load}
--         {'wait'}: it is in the queue and will be told
--         {'full'}: no worker, and no place in the queue (or no wish to wait)
-- promises  never above the limits of function and project; never a worker of another target

if not current(ARGV, 17) then return {'stale'} end

local wanted = {
  holder = ARGV[6], runtime = ARGV[7], target = ARGV[8], function_id = ARGV[9], project_id = ARGV[10],
  execution = ARGV[11], run_ms = ARGV[12], detail = ARGV[13], only_fresh = ARGV[16] == 'fresh',
}
if permitted(wanted.function_id, wanted.project_id) then
  local worker, fresh = fitting(wanted.runtime, wanted.target, wanted.only_fresh, ARGV[16] == 'loaded')
  if worker then
    local address, secret, token = begin_lease(worker, fresh, wanted, true)
    return {'lease', worker, address, secret, token, fresh and 'assign' or 'none', fresh and '1' or '0'}
  end
end

local wait_ms = tonumber(ARGV[14])
if wait_ms <= 0 or call('ZCARD', WAITERS) >= tonumber(ARGV[15]) then return {'full'} end
local generations = {}
for at = 17, #ARGV do generations[#generations + 1] = ARGV[at] end
enqueue(ARGV[5], wanted, wait_ms, generations)
make_room()
return {'wait'}
