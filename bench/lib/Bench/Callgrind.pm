# Counts instructions with valgrind's callgrind. The counts are the same in every run, whatever else the
# machine does.
package Bench::Callgrind;

use strict;
use warnings;

use Exporter 'import';

use Bench qw(quick);
use Test::Memstat::Proc qw(read_file);

our @EXPORT_OK = qw(by_part counts more outside_malloc per_request profile under);

# The number of requests before counting starts, and of counted requests. No power of 2 lies between the
# first number and the sum: at these, creators of pools are looked up.
my ($BEFORE, $COUNTED) = (1100, quick(900, 100));

# The functions that allocate and free memory.
my %IS_MALLOC = map { $_ => 1 }
    qw(malloc calloc realloc free posix_memalign memalign aligned_alloc malloc_usable_size);

# Returns the sections that run nginx under callgrind, as a single process that reads the clock as rarely
# as possible.
sub under {
    return (
        main_config => "master_process off;\ntimer_resolution 1h;\n",
        under       => 'valgrind --tool=callgrind --smc-check=all'
            . ' --callgrind-out-file=$TEST_NGINX_SERVER_ROOT/profile'
            . ' --log-file=$TEST_NGINX_SERVER_ROOT/log.%p',
    );
}

# Returns the counts of one request to a server that runs under callgrind. ask: a function that sends a
# number of requests. Connections that are opened or closed meanwhile are counted too.
sub per_request {
    my ($t, $ask) = @_;
    my $counts = counts(profile($t, $ask, $BEFORE, $COUNTED));
    $_ /= $COUNTED for @$counts{qw(all malloc module)};
    for my $function (values %{ $counts->{functions} }) { $_ /= $COUNTED for values %$function }
    return $counts;
}

# Returns the profile of a number of requests after a number of uncounted ones. Stops the server.
sub profile {
    my ($t, $ask, $before, $counted) = @_;
    $ask->($before);
    control($t, '--zero');
    $ask->($counted);
    control($t, '--dump');
    my $profile = read_file($t->root . '/profile.1') // die "callgrind wrote no profile\n";
    my @wrong = $t->stop;
    die "nginx under callgrind: @wrong\n" if @wrong;
    return $profile;
}

sub control {
    my ($t, $command) = @_;
    my $said = `callgrind_control $command @{[ $t->master ]} 2>&1`;
    die "callgrind_control $command: $said\n" unless $said =~ /^\s*OK/m;
    return;
}

# Returns the counts in a profile: all, malloc (with everything that malloc calls; glibc's path through its
# lists depends on the addresses of blocks), module (the module's own code), and for each function of the
# module the number of its calls and its own instructions. With a pattern of an object's name, this object
# takes the place of the module.
sub counts {
    my ($profile, $name) = @_;
    my $is_module = sub { $_[0] =~ ($name // qr/memstat[^\/]*\.so/) };
    my %sum = (all => 0, malloc => 0, module => 0, functions => {});
    each_cost($profile,
        sub {
            my ($object, $function, $cost) = @_;
            $sum{all} += $cost;
            return unless $is_module->($object);
            $sum{module} += $cost;
            $sum{functions}{$function}{instructions} += $cost;
        },
        sub {
            my ($object, undef, $callee_object, $callee, $calls, $cost) = @_;
            $sum{malloc} += $cost if $IS_MALLOC{$callee} && !is_libc($object) && is_libc($callee_object);
            $sum{functions}{$callee}{calls} += $calls if $is_module->($callee_object);
        });
    return \%sum;
}

# Reads a profile. Calls own with an object, a function and the function's own instructions; calls call with
# an object and a function, the object and function that they call, the number of calls, and the callee's
# instructions including everything that it calls. The format is described in valgrind's manual: "ob=" and
# "fn=" name the place of the following costs, and the line after "calls=" has the callee's cost.
sub each_cost {
    my ($profile, $own, $call) = @_;
    my (%names, $object, $function, $callee_object, $callee, $calls);
    my $name = sub { my ($kind, $id, $name) = @_; $names{"$kind$id"} = $name if defined $name; $names{"$kind$id"} };
    for (split /\n/, $profile) {
        if    (/^ob=\((\d+)\)(?: (.*))?/)  { $object = $name->(ob => $1, $2) }
        elsif (/^fn=\((\d+)\)(?: (.*))?/)  { $function = $name->(fn => $1, $2) }
        elsif (/^cob=\((\d+)\)(?: (.*))?/) { $callee_object = $name->(ob => $1, $2) }
        elsif (/^cfn=\((\d+)\)(?: (.*))?/) { $callee = $name->(fn => $1, $2) }
        elsif (/^calls=(\d+)/)             { $calls = $1 }
        elsif (/^[+\-*\d]\S* (\d+)$/) {
            if (defined $calls) {
                $call->($object, $function, $callee_object // $object, $callee, $calls, $1);
                undef $calls;
                undef $callee_object;
            }
            else {
                $own->($object, $function, $1);
            }
        }
    }
    return;
}

# Returns the instructions of the parts of a program: a hash. part: returns the part of an object's
# function, if any. The instructions of a function without a part are divided among its callers, by the
# cost of their calls.
sub by_part {
    my ($profile, $part) = @_;
    my (%part, %left, %callers, %sum);
    my $place = sub {
        my ($object, $function) = @_;
        my $place = "$object\0$function";
        $part{$place} = $part->($object, $function) unless exists $part{$place};
        return $place;
    };
    each_cost($profile,
        sub { my ($object, $function, $cost) = @_; $left{ $place->($object, $function) } += $cost },
        sub {
            my ($object, $function, $callee_object, $callee, undef, $cost) = @_;
            my ($from, $to) = ($place->($object, $function), $place->($callee_object, $callee));
            $callers{$to}{$from} += $cost if $from ne $to;
        });
    # The number of rounds is limited, because functions without a part may call each other in a cycle.
    for (1 .. 100) {
        my %above;
        while (my ($place, $cost) = each %left) {
            my $callers = $callers{$place};
            if (defined $part{$place} || !$callers) {
                $sum{ $part{$place} // '' } += $cost;
                next;
            }
            my $all = 0;
            $all += $_ for values %$callers;
            $above{$_} += $cost * $callers->{$_} / $all for $all ? keys %$callers : ();
        }
        %left = %above;
    }
    return \%sum;
}

# Returns how many instructions more a request takes in one server than in another, outside malloc.
sub more {
    my ($with, $without) = @_;
    return ($with->{all} - $with->{malloc}) - ($without->{all} - $without->{malloc});
}

# Returns the instructions outside malloc, and within malloc, as a cell of a table.
sub outside_malloc { return sprintf '%.0f + %.0f', $_[0]{all} - $_[0]{malloc}, $_[0]{malloc} }

sub is_libc { return $_[0] =~ /\/libc[.-][^\/]*$/ }

1;
