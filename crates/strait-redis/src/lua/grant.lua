-- Messages go out: what holds if nobody hears of them again.
-- KEYS: shard, messages that come again   ARGV: epoch, right behind the last that goes out for the first time or '', positions and what is known of them ..
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] or not redis.call('HGET', KEYS[1], 'owner') then
  return 0
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[1], 'out', ARGV[2])
end
if #ARGV > 2 then
  redis.call('HSET', KEYS[2], unpack(ARGV, 3))
end
return 1
