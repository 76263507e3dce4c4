-- lease: leases a worker to a call, or queues the call.
-- ARGV    5 waiter's name (holder/n)  6 holder  7 runtime  8 target  9 function  10 project  11 execution  12 run_ms
--         13 detail, empty when there is no execution  14 wait_ms  15 most waiters of all projects  16 of one project
--         17 of one function  18 which workers are acceptable: 'any', 'fresh' (only warm, unassigned ones) or 'loaded'
--         (only workers that hold the target; a call never waits for one)  19… pairs of (what, generation)
-- reads   generations, running:*, idle:<target>, warm:<runtime>, worker:<id>, waiters, waiting:*, lines, starting:*,
--         runtimes
-- writes  a lease: worker:<id>, leases, running:*, executions, idle, idle:<target> or warm:<runtime>;
--         a waiter: turn, waiter:<name>, waiters, waiting:*, lines, line:<line>; room: draining, wakeups
-- returns {'stale'}: a generation differs or is missing; nothing was changed
--         {'lease', worker, address, secret, token, cold, needs_load}
--         {'wait'}: the call is queued and will be notified
--         {'busy'}: no worker is free, and the call does not wait
--         {'full', bound, waiting}: no worker is free, and the queue has no place for the call; bound is 'function',
--         'project' or 'all', and waiting is the number of waiters that this limit counts
-- promises  leases and waiters never exceed the limits of function and project; a call never gets a worker of another
--           target; a project without waiters gets a place if the queue has one; a function without waiters gets a
--           place if its project has one

if not current(ARGV, 19) then return {'stale'} end

local wanted = {
  holder = ARGV[6], runtime = ARGV[7], target = ARGV[8], function_id = ARGV[9], project_id = ARGV[10],
  execution = ARGV[11], run_ms = ARGV[12], detail = ARGV[13], only_fresh = ARGV[18] == 'fresh',
}
if permitted(wanted.function_id, wanted.project_id) then
  local worker, fresh = fitting(wanted.runtime, wanted.target, wanted.only_fresh, ARGV[18] == 'loaded')
  if worker then
    local address, secret, token = begin_lease(worker, fresh, wanted, true)
    return {'lease', worker, address, secret, token, fresh and 'assign' or 'none', fresh and '1' or '0'}
  end
end

local wait_ms = tonumber(ARGV[14])
if wait_ms <= 0 then return {'busy'} end

-- A function may have at most as many waiters as its project has free places, and a project at most as many as the
-- whole queue has free places. The first project to fill the queue gets at most half of it, the next one half of the rest, so
-- places remain for others.
local most_of_all, most_of_project, most_of_function = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17])
local of_all = call('ZCARD', WAITERS)
local of_project = call('SCARD', P .. 'waiting:project:' .. wanted.project_id)
local of_function = call('SCARD', P .. 'waiting:function:' .. wanted.function_id)
if of_function >= most_of_function then return {'full', 'function', of_function} end
if of_function >= most_of_project - of_project then return {'full', 'project', of_project} end
if of_project >= most_of_all - of_all then return {'full', 'all', of_all} end

local generations = {}
for at = 19, #ARGV do generations[#generations + 1] = ARGV[at] end
enqueue(ARGV[5], wanted, wait_ms, generations)
make_room()
return {'wait'}
